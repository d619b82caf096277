"""Bundle and frames to verdicts. Never imports torch."""
