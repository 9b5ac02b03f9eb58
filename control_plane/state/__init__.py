"""What several control planes of one cluster share, and who of them acts."""
