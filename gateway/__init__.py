"""The front door: OpenAI HTTP, with the router in its process."""
