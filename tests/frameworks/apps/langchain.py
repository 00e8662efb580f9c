"""langchain-openai, langchain-anthropic, and agents on LangGraph."""

from __future__ import annotations

from harness import CLAUDE, EMBEDDER, GPT, HELLO, TOOL, route, volatile
from langchain.agents import create_agent
from langchain_anthropic import ChatAnthropic
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from pydantic import BaseModel

volatile("run_id")


class City(BaseModel):
    """A city."""

    name: str
    people: int


def weather(city: str) -> str:
    """Tell the weather in a city."""
    return f"sunny in {city}"


@route("openai invoke")
def openai_invoke():
    return ChatOpenAI(model=GPT).invoke(HELLO)


@route("openai stream")
def openai_stream():
    return list(ChatOpenAI(model=GPT).stream(HELLO))


@route("openai ainvoke")
async def openai_ainvoke():
    return await ChatOpenAI(model=GPT).ainvoke(HELLO)


@route("openai astream")
async def openai_astream():
    return [chunk async for chunk in ChatOpenAI(model=GPT).astream(HELLO)]


@route("openai batch", at_once=True)
def openai_batch():
    return ChatOpenAI(model=GPT).batch([HELLO, "And another."])


@route("openai structured")
def openai_structured():
    return ChatOpenAI(model=GPT).with_structured_output(City).invoke(HELLO)


@route("openai structured by tool")
def openai_structured_by_tool():
    model = ChatOpenAI(model=GPT).with_structured_output(City, method="function_calling")
    return model.invoke(HELLO)


@route("openai tools")
def openai_tools():
    return ChatOpenAI(model=GPT).bind_tools([weather]).invoke(TOOL)


@route("responses invoke")
def responses_invoke():
    return ChatOpenAI(model=GPT, use_responses_api=True).invoke(HELLO)


@route("responses astream")
async def responses_astream():
    model = ChatOpenAI(model=GPT, use_responses_api=True)
    return [chunk async for chunk in model.astream(HELLO)]


@route("responses structured")
def responses_structured():
    return ChatOpenAI(model=GPT, use_responses_api=True).with_structured_output(City).invoke(HELLO)


@route("openai embeddings")
def openai_embeddings():
    # The check would tokenize with tables that are downloaded.
    embedder = OpenAIEmbeddings(model=EMBEDDER, check_embedding_ctx_length=False)
    return embedder.embed_documents(["one", "two"]), embedder.embed_query("three")


@route("anthropic invoke")
def anthropic_invoke():
    return ChatAnthropic(model=CLAUDE).invoke(HELLO)


@route("anthropic stream")
def anthropic_stream():
    return list(ChatAnthropic(model=CLAUDE).stream(HELLO))


@route("anthropic ainvoke")
async def anthropic_ainvoke():
    return await ChatAnthropic(model=CLAUDE).ainvoke(HELLO)


@route("anthropic astream")
async def anthropic_astream():
    return [chunk async for chunk in ChatAnthropic(model=CLAUDE).astream(HELLO)]


@route("anthropic structured")
def anthropic_structured():
    return ChatAnthropic(model=CLAUDE).with_structured_output(City).invoke(HELLO)


@route("anthropic tools")
def anthropic_tools():
    return ChatAnthropic(model=CLAUDE).bind_tools([weather]).invoke(TOOL)


def _asked():
    return {"messages": [{"role": "user", "content": TOOL}]}


@route("langgraph openai")
def langgraph_openai():
    return create_agent(ChatOpenAI(model=GPT), [weather]).invoke(_asked())


@route("langgraph openai stream")
def langgraph_openai_stream():
    agent = create_agent(ChatOpenAI(model=GPT), [weather])
    return list(agent.stream(_asked(), stream_mode=["updates", "messages"]))


@route("langgraph anthropic ainvoke")
async def langgraph_anthropic():
    return await create_agent(ChatAnthropic(model=CLAUDE), [weather]).ainvoke(_asked())


@route("langgraph structured")
def langgraph_structured():
    agent = create_agent(ChatOpenAI(model=GPT), [weather], response_format=City)
    return agent.invoke(_asked())["structured_response"]
