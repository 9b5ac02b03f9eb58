"""The operator's REST API: what it shows, what it takes, and the parts that answer."""
