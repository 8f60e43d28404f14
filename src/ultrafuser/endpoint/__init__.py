"""Talking to OpenAI-compatible endpoints: one client for judges, models under test and data synthesis."""

from ultrafuser.endpoint.client import ChatClient
from ultrafuser.endpoint.errors import EndpointError, RejectedError
from ultrafuser.endpoint.messages import ChatRequest, Reply, TokenLogprob, Usage

__all__ = ["ChatClient", "ChatRequest", "EndpointError", "RejectedError", "Reply", "TokenLogprob", "Usage"]
