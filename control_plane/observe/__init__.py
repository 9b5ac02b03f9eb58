"""The live cluster as the planner's observation: from Prometheus, or from the processes."""
