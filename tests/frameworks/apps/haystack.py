"""Haystack: chat generators of both SDKs, Responses, embedders, agents, in pipelines and alone."""

from __future__ import annotations

from harness import CLAUDE, EMBEDDER, GPT, HELLO, TOOL, route, volatile
from haystack import Document, Pipeline
from haystack.components.agents import Agent
from haystack.components.embedders import OpenAIDocumentEmbedder, OpenAITextEmbedder
from haystack.components.generators.chat import OpenAIChatGenerator, OpenAIResponsesChatGenerator
from haystack.dataclasses import ChatMessage
from haystack.tools import tool
from haystack_integrations.components.generators.anthropic import AnthropicChatGenerator
from pydantic import BaseModel

volatile("completion_start_time", "received_at")


class City(BaseModel):
    """A city."""

    name: str
    people: int


@tool
def weather(city: str) -> str:
    """Tell the weather in a city."""
    return f"sunny in {city}"


ASK = [ChatMessage.from_user(HELLO)]


def _told(result):
    return [message.to_dict() for message in result["replies"]]


def _streaming(make):
    chunks = []

    def keep(chunk):
        chunks.append(chunk.content)

    return [_told(make(keep).run(messages=ASK)), chunks]


@route("openai chat")
def openai_chat():
    return _told(OpenAIChatGenerator(model=GPT).run(messages=ASK))


@route("openai chat streamed")
def openai_chat_streamed():
    return _streaming(lambda keep: OpenAIChatGenerator(model=GPT, streaming_callback=keep))


@route("openai chat async")
async def openai_chat_async():
    return _told(await OpenAIChatGenerator(model=GPT).run_async(messages=ASK))


@route("openai structured")
def openai_structured():
    asked = {"response_format": City}
    return _told(OpenAIChatGenerator(model=GPT, generation_kwargs=asked).run(messages=ASK))


@route("openai pipeline")
def openai_pipeline():
    pipeline = Pipeline()
    pipeline.add_component("writer", OpenAIChatGenerator(model=GPT))
    return _told(pipeline.run({"writer": {"messages": ASK}})["writer"])


@route("openai agent")
def openai_agent():
    agent = Agent(chat_generator=OpenAIChatGenerator(model=GPT), tools=[weather])
    return [message.text for message in agent.run(messages=[ChatMessage.from_user(TOOL)])["messages"]]


@route("responses chat")
def responses_chat():
    return _told(OpenAIResponsesChatGenerator(model=GPT).run(messages=ASK))


@route("responses chat streamed")
def responses_chat_streamed():
    return _streaming(lambda keep: OpenAIResponsesChatGenerator(model=GPT, streaming_callback=keep))


@route("openai embeddings")
def openai_embeddings():
    query = OpenAITextEmbedder(model=EMBEDDER).run("one")["embedding"]
    documents = OpenAIDocumentEmbedder(model=EMBEDDER, progress_bar=False).run([Document(content="two")])
    return query, documents["documents"][0].embedding


@route("anthropic chat")
def anthropic_chat():
    return _told(AnthropicChatGenerator(model=CLAUDE).run(messages=ASK))


@route("anthropic chat streamed")
def anthropic_chat_streamed():
    return _streaming(lambda keep: AnthropicChatGenerator(model=CLAUDE, streaming_callback=keep))


@route("anthropic chat async")
async def anthropic_chat_async():
    return _told(await AnthropicChatGenerator(model=CLAUDE).run_async(messages=ASK))


@route("anthropic agent")
def anthropic_agent():
    agent = Agent(chat_generator=AnthropicChatGenerator(model=CLAUDE), tools=[weather])
    return [message.text for message in agent.run(messages=[ChatMessage.from_user(TOOL)])["messages"]]
