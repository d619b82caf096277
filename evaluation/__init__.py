"""Attacks, metrics, cost reports, the demo. Sees both sides."""
