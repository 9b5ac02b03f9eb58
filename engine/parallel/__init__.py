"""One model computed by several processes of a host."""
