"""What `baton doctor` looks at, one subject a file; a check never raises for what it finds."""
