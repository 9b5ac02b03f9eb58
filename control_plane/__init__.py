"""Registry of live workers, its gRPC service, and the actuators that start and stop processes."""
