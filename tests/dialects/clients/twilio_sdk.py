"""What Twilio's own library makes of a call: the TwiML that connects it, and the signature of its handshake and of its webhook.

There is no client to run: Twilio's service is the client. `tests/dialects/phone.py` stands for it, signed by this.
"""

from __future__ import annotations

import json
import sys

from twilio.request_validator import RequestValidator
from twilio.twiml.voice_response import Connect, Stream, VoiceResponse


def main() -> None:
    url, _, _, token, session, ours = sys.argv[1:]
    address = url.replace("http", "wss", 1) + "/twilio"
    validator = RequestValidator(token)
    response = VoiceResponse()
    connect = Connect()
    stream = Stream(url=address)
    stream.parameter(name="session", value=session)
    stream.parameter(name="barge_in", value="cancel")
    connect.append(stream)
    response.append(connect)
    form = json.loads(ours)["form"]
    webhook = "https://ivr.example/voice?x=1"
    found = {
        "twiml": str(response),
        "signature": validator.compute_signature(address, {}),
        "webhook_signature": validator.compute_signature(webhook, form),
        "ours_is_right": validator.validate(address, {}, json.loads(ours)["signature"]),
        "our_webhook_is_right": validator.validate(webhook, form, json.loads(ours)["webhook_signature"]),
        "wrong_is_wrong": not validator.validate(address, {}, json.loads(ours)["webhook_signature"]),
    }
    print(json.dumps(found))


main()
