"""Is it our own voice that the microphone hears? A loudspeaker without echo cancellation must not interrupt itself.

Knows the level of what is being played, hop by hop, and that of the microphone: where one follows the other with a constant lag, it is an
echo, and only what is clearly louder is somebody else. Does not know what was played (levels are enough), or turns. Cancelling echo is the
client's business; this keeps a conversation alive where it is missing or has not settled yet.
"""

from __future__ import annotations

from collections import deque
from typing import Final

import numpy as np
import numpy.typing as npt

from realtime.voice_activity import SILENCE_DB

Levels = npt.NDArray[np.float64]  # [n], dB, one a hop

# 0.64 s from loudspeaker to us: sound card, room, capture and network, and what the playback clock is wrong by.
MAX_LAG_HOPS: Final = 20
# 3 s. Over 1 s independent speech reaches a correlation of 0.87 at its best lag, over 2 s 0.69, over 3 s 0.58.
WINDOW_HOPS: Final = 94
# Until so much was compared nobody can tell whether the microphone hears us, and what it hears while we speak does not count. Over 1 s an
# echo correlates with 0.6 or more (95 % of windows); other systems wait 3 s and learn nothing in that time.
WARM_UP_HOPS: Final = 31
ECHO_AT_FIRST: Final = 0.55  # correlation that makes an echo after the warm-up: prefers to be careful
# And with a whole window: echoes above the room's noise have 0.75 to 0.9, other people's speech at most 0.58.
ECHO: Final = 0.65
# Speech begins with hops so much louder than the echo that is expected and lasts down to the echo itself. At 2, up to 2 % of an echo's
# hops are louder than that, at 4 0.2 %. Of 20 phrases 6 dB above the echo's level, 3 were missed; 16 with 6 throughout and a smear of
# 3.
MARGIN_DB: Final = 4.0
RANGE_DB: Final = 40.0  # below the loudest hop nothing tells anything: that is the room
ACTIVE_DB: Final = 25.0  # hops within so much of the loudest show how loud the echo is
# The lag wanders with the network, and a hop of ours lies across two of theirs. More hides people in the echo's gaps, where they are
# heard; less gives way to a clock that jumps (see the last rows of the report).
SMEAR_HOPS: Final = 2
DECAY_DB: Final = 4.0  # a hop: a room's tail of 60 dB in half a second
JUDGE_EVERY: Final = 4  # hops: 0.03 ms each time


class OwnVoice:
    """One microphone beside one loudspeaker. What it learned about them outlives the turns."""

    def __init__(self) -> None:
        self._heard: deque[float] = deque(maxlen=WINDOW_HOPS)  # by the microphone, while we spoke or just had
        self._played: deque[float] = deque(maxlen=WINDOW_HOPS + MAX_LAG_HOPS)  # at the same times
        self._since_played = MAX_LAG_HOPS  # hops since anything was played
        self._count = 0  # hops compared
        self._lag = 0  # hops from playing to hearing
        self._gain_db: float | None = None  # of the echo; None: there is none that we know of
        self._expected_db = SILENCE_DB  # of the echo, now

    @property
    def gain_db(self) -> float | None:
        """How loud the microphone hears what is played; None: it does not, as far as is known."""
        return self._gain_db

    def explains(self, heard_db: float, played_db: float | None, speaking: bool) -> bool:
        """Whether the next hop of the microphone may be nothing but our own voice.

        played_db: level of what is played meanwhile; None: nothing, or nobody knows. speaking: whether somebody else speaks already, or
        perhaps begins to.
        """
        self._since_played = 0 if played_db is not None else self._since_played + 1
        if self._since_played > MAX_LAG_HOPS:
            self._expected_db = SILENCE_DB
            return False
        self._heard.append(heard_db)
        self._played.append(SILENCE_DB if played_db is None else played_db)
        self._count += 1
        if self._count < WARM_UP_HOPS:
            return True
        if (self._count - WARM_UP_HOPS) % JUDGE_EVERY == 0:
            self._judge()
        if self._gain_db is None:
            return False
        end = len(self._played) - self._lag + SMEAR_HOPS
        recent = list(self._played)[max(0, end - 2 * SMEAR_HOPS - 1) : max(1, end)]
        self._expected_db = max(self._expected_db - DECAY_DB, max(recent) + self._gain_db)
        return heard_db <= self._expected_db + (0.0 if speaking else MARGIN_DB)

    def _judge(self) -> None:
        """Look whether the microphone follows the loudspeaker, and at what distance."""
        heard = np.array(self._heard)
        played = np.array(self._played)
        played = np.concatenate((np.full(len(heard) + MAX_LAG_HOPS - len(played), SILENCE_DB), played))
        lagged = np.lib.stride_tricks.sliding_window_view(played, len(heard))[::-1]  # [lags, hops]; row 0 is no lag
        correlations = _correlations(_floored(heard), _floored(lagged))
        lag = int(np.argmax(correlations))
        share = (len(heard) - WARM_UP_HOPS) / (WINDOW_HOPS - WARM_UP_HOPS)
        if correlations[lag] >= ECHO_AT_FIRST + (ECHO - ECHO_AT_FIRST) * share:
            self._lag = lag
            self._gain_db = _gain_db(heard, lagged[lag])
        elif self._gain_db is not None:
            # Somebody speaks over it, or the echo has gone, cancelled or turned down: then it can only have become quieter.
            self._gain_db = min(self._gain_db, _gain_db(heard, lagged[self._lag]))


def _floored(levels: Levels) -> Levels:
    floored: Levels = np.maximum(levels, levels.max() - RANGE_DB)
    return floored


def _correlations(heard: Levels, lagged: Levels) -> Levels:
    """Of heard [hops] with every row of lagged [lags, hops]; 0 where one of them stands still."""
    ours = heard - heard.mean()
    theirs = lagged - lagged.mean(axis=1, keepdims=True)
    scale = np.sqrt((ours @ ours) * np.sum(theirs**2, axis=1))
    correlations: Levels = np.where(scale > len(heard), (theirs @ ours) / np.maximum(scale, 1e-9), 0.0)
    return correlations


def _gain_db(heard: Levels, played: Levels) -> float:
    active = played >= played.max() - ACTIVE_DB
    return float(np.median(heard[active] - played[active]))
