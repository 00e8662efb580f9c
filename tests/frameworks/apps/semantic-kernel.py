"""Semantic Kernel: chat services of both SDKs, streamed and not, functions, agents, embeddings."""

from __future__ import annotations

from harness import CLAUDE, EMBEDDER, GPT, HELLO, TOOL, route
from semantic_kernel.agents import ChatCompletionAgent
from semantic_kernel.connectors.ai.anthropic import (
    AnthropicChatCompletion,
    AnthropicChatPromptExecutionSettings,
)
from semantic_kernel.connectors.ai.open_ai import (
    OpenAIChatCompletion,
    OpenAIChatPromptExecutionSettings,
    OpenAITextEmbedding,
)
from semantic_kernel.contents import ChatHistory
from semantic_kernel.functions import kernel_function


class Weather:
    """Knows the weather."""

    @kernel_function(description="Tell the weather in a city.")
    def weather(self, city: str) -> str:
        """Tell the weather in a city."""
        return f"sunny in {city}"


def _asked():
    history = ChatHistory()
    history.add_user_message(HELLO)
    return history


def _gpt():
    return OpenAIChatCompletion(ai_model_id=GPT)


def _claude():
    return AnthropicChatCompletion(ai_model_id=CLAUDE)


async def _streamed(service, settings):
    chunks = service.get_streaming_chat_message_contents(_asked(), settings)
    return [[str(part) for part in parts] async for parts in chunks]


@route("openai chat")
async def openai_chat():
    reply = await _gpt().get_chat_message_content(_asked(), OpenAIChatPromptExecutionSettings())
    return [str(reply), reply.metadata["usage"]]


@route("openai chat streamed")
async def openai_chat_streamed():
    return await _streamed(_gpt(), OpenAIChatPromptExecutionSettings())


@route("openai agent")
async def openai_agent():
    return str(await ChatCompletionAgent(service=_gpt(), name="writer").get_response(HELLO))


@route("openai agent with functions")
async def openai_agent_functions():
    agent = ChatCompletionAgent(service=_gpt(), name="writer", plugins=[Weather()])
    return str(await agent.get_response(TOOL))


@route("openai embeddings")
async def openai_embeddings():
    return (await OpenAITextEmbedding(ai_model_id=EMBEDDER).generate_embeddings(["one", "two"])).tolist()


@route("anthropic chat")
async def anthropic_chat():
    reply = await _claude().get_chat_message_content(_asked(), AnthropicChatPromptExecutionSettings())
    return str(reply)


@route("anthropic chat streamed")
async def anthropic_chat_streamed():
    return await _streamed(_claude(), AnthropicChatPromptExecutionSettings())


@route("anthropic agent with functions")
async def anthropic_agent_functions():
    agent = ChatCompletionAgent(service=_claude(), name="writer", plugins=[Weather()])
    return str(await agent.get_response(TOOL))
