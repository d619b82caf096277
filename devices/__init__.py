"""Boards as data: what they can hold and how fast they are at best."""
