"""What `engine.verify` compares with, how close is close enough, and the table.

Knows expected arrays and tolerances. Does not know what is being computed.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

AR_TOLERANCE = 1e-4  # float32 logits and hidden states; measured <= 2e-5, and the smallest known mistake shows as 8e-4
BF16_MAX, BF16_RMS = 0.4, 0.06  # two correct bfloat16 implementations differ by up to 0.19, rms 0.025
PROBABILITY_TOLERANCE = 1e-6
CODEC_TOLERANCE = 5e-5  # measured <= 4e-6; a tanh GELU shows as 3e-4
STREAM_TOLERANCE = 1e-5  # streaming against offline, and a prefix against the whole

Array = npt.NDArray[np.generic]


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table."""

    what: str
    error: str  # largest absolute difference, a count of differing numbers, or why there is none
    tolerance: str
    ok: bool | None  # None: not compared


@dataclass
class Report:
    """Compares with what the folder expects and keeps the lines."""

    arrays: dict[str, Array]
    device: torch.device  # where the checks compute
    rows: list[Row] = field(default_factory=list)
    looked_at: set[str] = field(default_factory=set)

    def expected(self, name: str, what: str | None = None) -> Tensor | None:
        """An expected array; None, and a line that says so, where the folder lacks it."""
        if name not in self.arrays:
            self.rows.append(Row(what or name, "absent", "", None))
            return None
        self.looked_at.add(name)
        return torch.from_numpy(np.asarray(self.arrays[name])).to(self.device)

    def close(self, what: str, got: Tensor, expected: Tensor | str, tolerance: float, rms: float | None = None) -> None:
        """Largest difference within `tolerance` and, where asked for, root mean square within `rms`."""
        want = self.expected(expected, what) if isinstance(expected, str) else expected
        if want is None or self._shape_differs(what, got, want):
            return
        difference = (got.double().cpu() - want.double().cpu()).abs()
        largest, mean = difference.max().item(), difference.square().mean().sqrt().item()
        ok = largest <= tolerance and (rms is None or mean <= rms)  # False for NaN too
        error, bound = f"{largest:.1e}", f"{tolerance:.0e}"
        if rms is not None:
            error, bound = f"{largest:.2f}, rms {mean:.3f}", f"{tolerance}, rms {rms}"
        self.rows.append(Row(what, error, bound, ok))

    def equal(self, what: str, got: Tensor, expected: Tensor | str) -> None:
        """Every number the same."""
        want = self.expected(expected, what) if isinstance(expected, str) else expected
        if want is None or self._shape_differs(what, got, want):
            return
        different = int((got.cpu() != want.cpu()).sum())
        self.rows.append(
            Row(what, f"{different} of {want.numel()} differ" if different else "equal", "equal", not different)
        )

    def _shape_differs(self, what: str, got: Tensor, want: Tensor) -> bool:
        if got.shape == want.shape:
            return False
        self.rows.append(Row(what, f"shape {tuple(got.shape)}", f"shape {tuple(want.shape)}", False))
        return True

    @property
    def ok(self) -> bool:
        """Something was compared and nothing fell short."""
        verdicts = [row.ok for row in self.rows if row.ok is not None]
        return bool(verdicts) and all(verdicts)

    def table(self) -> str:
        """The lines as text."""
        cells = [("what", "max error", "tolerance", "ok")]
        cells += [
            (row.what, row.error, row.tolerance, {True: "ok", False: "FAIL", None: "-"}[row.ok]) for row in self.rows
        ]
        widths = [max(len(line[column]) for line in cells) for column in range(4)]
        return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in cells)
