"""openai's realtime client: two responses, the second of which is cancelled and truncated, and a third."""

import asyncio
import base64
import json
import sys
import time

import openai

url, folder, key = sys.argv[1:4]
LONG = "The captain painted the boat. The sailor sold the ladder. The nurse carried the clock to the old pilot."


async def speak(connection, text: str, cancel_after_s: float | None = None) -> dict:
    started, first, last, size, transcript, kinds = time.monotonic(), None, None, 0, "", []
    content = [{"type": "output_text", "text": text}]
    await connection.conversation.item.create(item={"type": "message", "role": "assistant", "content": content})
    await connection.response.create()
    item, cancelled = "", False
    while True:
        event = await connection.recv()
        now = time.monotonic()
        kinds.append(event.type)
        match event.type:
            case "response.output_item.added":
                item = event.item.id
            case "response.output_audio.delta":
                first, last = first or now, now
                size += len(base64.b64decode(event.delta))
            case "response.output_audio_transcript.delta":
                transcript += event.delta
            case "error":
                raise AssertionError(event.error)
            case "response.done":
                if not cancelled:
                    break
            case "conversation.item.truncated":
                break
        if cancel_after_s is not None and not cancelled and first and now - first >= cancel_after_s <= size / 48_000:
            cancelled = True
            await connection.response.cancel()
            await connection.conversation.item.truncate(item_id=item, content_index=0, audio_end_ms=1000)
    return {
        "audio_s": size / 48_000,
        "first_s": first - started,
        "took_s": last - first,
        "transcript": transcript,
        "kinds": list(dict.fromkeys(kinds)),
    }


async def main() -> None:
    client = openai.AsyncOpenAI(api_key=key, base_url=f"{url}/s/openai-realtime/v1", max_retries=0)
    async with client.realtime.connect(model="gpt-realtime") as connection:
        created = await connection.recv()
        await connection.session.update(
            session={
                "type": "realtime",
                "audio": {"output": {"voice": "marin", "format": {"type": "audio/pcm", "rate": 24000}}},
            }
        )
        updated = await connection.recv()
        content = [{"type": "input_text", "text": "What happened?"}]
        await connection.conversation.item.create(item={"type": "message", "role": "user", "content": content})
        turns = [
            await speak(connection, "The young farmer found the map. He sold it."),
            await speak(connection, LONG, 1.5),
            await speak(connection, "The baker forgot the violin."),
        ]
        await connection.response.create()
        nobody = await connection.recv()
    try:
        wrong = openai.AsyncOpenAI(api_key="wrong-wrong-wrong", base_url=f"{url}/v1", max_retries=0)
        async with wrong.realtime.connect(model="gpt-realtime"):
            refused = ""
    except Exception as error:  # the library that the SDK uses has its own
        refused = str(error)
    print(
        json.dumps(
            {
                "turns": turns,
                "session": [created.type, updated.type, updated.session.audio.output.voice],
                "nobody": nobody.error.code,
                "refused": refused,
            }
        )
    )


asyncio.run(main())
