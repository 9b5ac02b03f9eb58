"""Registry of workers and the actuators that start, restart and stop them."""
