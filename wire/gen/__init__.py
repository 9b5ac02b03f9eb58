"""Output of protoc, committed; `make proto` writes it again."""
