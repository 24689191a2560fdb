"""Runs LLM jobs from a queue against an OpenAI-compatible endpoint, and loses none."""
