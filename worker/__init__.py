"""One process around one engine: step thread, sessions, fabric, registration, drain."""
