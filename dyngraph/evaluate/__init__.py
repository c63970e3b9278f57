"""Measuring models: quality and cost."""
