"""The sequential test: pure functions of votes."""
