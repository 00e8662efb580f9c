"""A provider of language models on the loopback interface: real HTTP, no API key, exact bills.

It speaks both dialects well enough for the Anthropic and OpenAI SDKs to parse every reply into their own
types, and keeps a journal of what it would bill, to compare one's own books with::

    with LoopbackProvider() as provider:
        client = openai.OpenAI(base_url=provider.openai_url, api_key="none")
        client.responses.create(model="gpt-5", input="hello")
        assert provider.tokens == 21

In another process: ``python -m tokencap._loopback --port 8000`` has ``GET /journal`` and ``DELETE /journal``.
Without sockets: ``provider.respond(method, path, headers, body)`` returns the very same bytes.

Counting
    Prompt: `count_prompt`. Reply: 16 tokens or the cap the request states, whichever is less; one word a
    token. JSON (tool calls, structured output): one token per four bytes. Reasoning counts as output and
    towards the cap. Every choice of ``n`` is billed. The cap cuts a reply short, as it does in the wild.
    Images: 272 output tokens each (dall-e bills none). Audio in: one token per 100 bytes (whisper-1 reports
    seconds, 32,000 bytes each, and bills no tokens). Speech, and translation of audio, report no usage and
    are billed their text and 16 tokens. Pictures and files in a prompt are not counted.

Steering, anywhere in the text of the prompt or in the name of the model; of two alike the last one holds:

====================================  ==================================================================
``[[input=900]]``                     the prompt is billed as 900 tokens
``[[output=120]]``                    the reply is 120 tokens long (the cap still holds)
``[[cache_read=50]]``                 50 tokens of the prompt came from a cache
``[[cache_write=20]]``                20 tokens of the prompt went to a cache
``[[reasoning=30]]``                  30 tokens of the reply are reasoning: inside ``output`` if that is given
``[[compaction=100]]``                Anthropic: a ``compaction`` iteration of 100 + 10 tokens beside the rest
``[[advisor=100]]``                   Anthropic: an ``advisor_message`` iteration, likewise
``[[declined=100]]``                  Anthropic: a ``message`` iteration of a model that declined, likewise
``[[drawn=100]]``                     Responses: pictures of 100 + 10 tokens, in ``tool_usage``
``[[chunks=5]]``                      a streamed reply comes in 5 content chunks (else 4)
``[[nousage]]``                       the reply reports no usage (it is billed all the same)
``[[status=500]]``                    an error reply, in the provider's shape; nothing is billed
``[[refuse_stream_options]]``         400 naming ``stream_options``, if the request has that field
``[[hang=1]]``                        seconds of silence before anything is sent
``[[delay=0.05]]``                    seconds before each event; before the reply if it is not streamed
``[[cut=3]]``                         the connection drops after 3 events; before the reply if not streamed
``[[error_event=2]]``                 the provider's error event follows the 2nd event, and ends the stream
``[[failed]]``                        Responses: ends as ``failed``, with usage
``[[polls=2]]``                       Responses: a background response is complete when retrieved twice
``[[attempts=1]]``                    status, hang, cut and error_event strike the SDK's first attempt only
====================================  ==================================================================

A tool that ``tool_choice`` forces is called (of several, the first offered). So is the first one when
``[tool]`` is in the last message and that is the user's, and ``[[tool=name]]`` in the last message, be it the
result of a tool, names one. A request for JSON of some schema is answered by a minimal instance of it
(patterns are not honoured).

A background response is billed when a retrieval first finds it complete. A stream that ended early, on either
side, is billed its prompt and what had been sent; a plain reply that never arrived is billed in full.
"""

from __future__ import annotations

from ._prompt import count_prompt
from ._respond import Entry, Reply, Store, respond
from ._server import LoopbackProvider

__all__ = ["Entry", "LoopbackProvider", "Reply", "Store", "count_prompt", "respond"]
