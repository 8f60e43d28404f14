"""Talking to OpenAI-compatible endpoints: one client for judges, models under test and data synthesis."""
