"""Programs of single numbers as C, and the loop over steps around them.

One function in C takes steps until a time is reached: it attempts, asks the controller, keeps or
drops, and writes the rows. All of it but that loop comes from the traced solver, controller and
field. There are two forms. In ``lanes`` each lane runs to its end before the next one begins, and
its numbers are local. In ``batch`` all samples share a step size, and every stage is one loop over
the samples, which the compiler turns into vector instructions.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch

from odekit._engine.scalars import Line, Program, Unsupported

TYPES = {
    torch.float32: "float",
    torch.float64: "double",
    torch.bool: "int8_t",
    torch.int64: "int64_t",
    torch.int32: "int32_t",
    torch.uint8: "uint8_t",
}

_ONE = {
    "neg": "(-{0})",
    "rsqrt": "(1 / sqrt{f}({0}))",
    "reciprocal": "(1 / {0})",
    "sigmoid": "(1 / (1 + exp{f}(-{0})))",
    "abs": "fabs{f}({0})",
    "round": "nearbyint{f}({0})",
    "sign": "({t})(({0} > 0) - ({0} < 0))",
    "relu": "({0} > 0 || {0} != {0} ? {0} : 0)",
    "logical_not": "(!{0})",
    "bitwise_not": "(!{0})",
    "invert": "(~{0})",
    "isnan": "({0} != {0})",
    "isinf": "(fabs{f}({0}) == INFINITY)",
}
_TWO = {
    "add": "({0} + {1})",
    "sub": "({0} - {1})",
    "mul": "({0} * {1})",
    "div": "({0} / {1})",
    "maximum": "({0} > {1} || {0} != {0} ? {0} : {1})",
    "minimum": "({0} < {1} || {0} != {0} ? {0} : {1})",
    "remainder": "remainder_of{f}({0}, {1})",
    "floor_divide": "floor_divide{f}({0}, {1})",
    "eq": "({0} == {1})",
    "ne": "({0} != {1})",
    "lt": "({0} < {1})",
    "le": "({0} <= {1})",
    "gt": "({0} > {1})",
    "ge": "({0} >= {1})",
    "logical_and": "({0} && {1})",
    "bitwise_and": "({0} & {1})",
    "and_": "({0} && {1})",
    "logical_or": "({0} || {1})",
    "bitwise_or": "({0} | {1})",
    "or_": "({0} || {1})",
    "logical_xor": "(!{0} != !{1})",
    "bitwise_xor": "({0} ^ {1})",
}
_OVER = {
    "over_add": ("0", "{0} += {1};"),
    "over_mul": ("1", "{0} *= {1};"),
    "over_maximum": ("-INFINITY", "{0} = {1} > {0} || {1} != {1} ? {1} : {0};"),
    "over_minimum": ("INFINITY", "{0} = {1} < {0} || {1} != {1} ? {1} : {0};"),
    "over_and_": ("1", "{0} = {0} && {1};"),
    "over_or_": ("0", "{0} = {0} || {1};"),
}


@dataclass(frozen=True)
class Stage:
    """A program with what it writes.

    Attributes:
        program: the lines.
        stores: where each output goes: a line, the text on the left of its assignment, and
            whether every sample has its own.
        reads: the text of an input, by its name and place.
        count: how many samples the loop has, in C; None where the code is in the loop already.
    """

    program: Program
    stores: list[tuple[int, str, bool]]
    reads: Callable[..., str] = field(repr=False)
    count: str | None

    def text(self, indent: str) -> str:
        """The statements, with the loop over ``b`` where something differs along it."""
        lines = self.program.lines
        wanted = _reachable(lines, (line for line, _, _ in self.stores))
        before, inside, after, sums = _lists()
        for i in wanted:
            line = lines[i]
            if line.op.startswith("over_"):
                start, step = _OVER[line.op]
                before.append(f"{TYPES[line.dtype]} v{i} = {start};")
                inside.append(step.format(f"v{i}", f"v{line.args[0]}"))
                sums.append((line.op, i))
                continue
            text = f"const {TYPES[line.dtype]} v{i} = {self._expression(line)};"
            (after if line.after else inside if line.looped else before).append(text)
        for i, target, looped in self.stores:
            (inside if looped else after).append(f"{target} = v{i};")
        if self.count is None:
            if sums:
                raise Unsupported("a sum over lanes, which must not see each other")
            whole = [
                f"const {TYPES[lines[i].dtype]} v{i} = {self._expression(lines[i])};"
                for i in wanted
            ]
            whole += [f"{target} = v{i};" for i, target, _ in self.stores]
            return "\n".join(indent + x for x in whole) + "\n"
        if not inside:
            return "\n".join(indent + x for x in (*before, *after)) + "\n"
        added = [f"v{i}" for op, i in sums if op == "over_add"]
        simd = len(added) == len(sums)
        clause = f" reduction(+:{','.join(added)})" if added else ""
        loop = [f"#pragma omp simd{clause}"] if simd else []
        loop += [f"for (int64_t b = 0; b < {self.count}; ++b) {{", *("  " + x for x in inside), "}"]
        return "\n".join(indent + x for x in (*before, *loop, *after)) + "\n"

    def _expression(self, line: Line) -> str:
        suffix = "f" if line.dtype is torch.float32 else ""
        if line.op == "number":
            return literal(line.args[0], line.dtype)
        if line.op == "input":
            return self.reads(*line.args)
        args = [f"v{i}" for i in line.args]
        if line.op == "cast":
            extra = " != 0" if line.dtype is torch.bool else ""
            return f"({TYPES[line.dtype]})({args[0]}{extra})"
        if line.op == "where":
            return f"({args[0]} ? {args[1]} : {args[2]})"
        first = self.program.lines[line.args[0]].dtype
        if line.op in ("isnan", "isinf"):
            suffix = "f" if first is torch.float32 else ""
        pattern = _ONE.get(line.op) if len(args) == 1 else _TWO.get(line.op)
        if pattern is None:
            return f"{line.op}{suffix}({', '.join(args)})"
        return pattern.format(*args, f=suffix, t=TYPES[line.dtype])


def _lists() -> tuple[list[str], list[str], list[str], list[tuple[str, int]]]:
    return [], [], [], []


def literal(value: Any, dtype: torch.dtype) -> str:
    """A number as C reads it, without loss."""
    if dtype is torch.bool:
        return str(int(value))
    if not dtype.is_floating_point:
        return f"{int(value)}LL"
    value = float(value)
    if math.isnan(value):
        return "NAN"
    if math.isinf(value):
        return "INFINITY" if value > 0 else "(-INFINITY)"
    text = value.hex()
    text = f"({text})" if value < 0 else text
    return f"(float){text}" if dtype is torch.float32 else text


def _reachable(lines: list[Line], outputs: Iterable[int]) -> list[int]:
    seen: set[int] = set()
    waiting = list(outputs)
    while waiting:
        i = waiting.pop()
        if i in seen:
            continue
        seen.add(i)
        if lines[i].op not in ("number", "input"):
            waiting += lines[i].args
    return sorted(seen)


@dataclass(frozen=True)
class Array:
    """Numbers that the loop carries or hands from one stage to the next.

    Attributes:
        name: in C.
        dtype: of each.
        places: how many there are for one sample.
        looped: whether every sample has its own.
    """

    name: str
    dtype: torch.dtype
    places: int
    looped: bool

    def at(self, place: int) -> str:
        """The text of one number."""
        return f"{self.name}[{place} * COUNT + b]" if self.looped else f"{self.name}[{place}]"

    @property
    def size(self) -> str:
        """How many numbers there are, in C."""
        return f"({self.places} * COUNT)" if self.looped else f"{self.places}"


@dataclass(frozen=True)
class Parts:
    """All that the loop is made of.

    Attributes:
        form: ``"lanes"`` or ``"batch"``.
        real: of the state.
        width: numbers in the state of one lane or sample.
        state, trial, error: the arrays of the state, of the proposal and of its error, if any.
        memory, fresh: the solver's memory, and the one that a step proposes.
        control, next_control: the controller's memory, before and after.
        brought: what a step says of itself beside.
        dense: what the interpolant needs, which may be the same.
        tolerances: relative and absolute.
        outside: tensors from outside, by name, with their dtypes.
        stages: the code of ``step``, ``decide`` and, where rows are wanted, ``interpolate`` and
            ``complete``.
    """

    form: str
    real: torch.dtype
    width: int
    state: Array
    trial: Array
    error: Array | None
    memory: list[Array]
    fresh: list[Array]
    control: list[Array]
    next_control: list[Array]
    brought: list[Array]
    dense: list[Array]
    tolerances: list[Array]
    outside: list[tuple[str, torch.dtype]]
    stages: dict[str, Stage]

    @property
    def carried(self) -> list[Array]:
        """What a lane keeps from one call to the next, the state first."""
        return [self.state, *self.memory, *self.control]

    @property
    def spare(self) -> list[Array]:
        """What lives for one attempt."""
        found = [self.trial, *([self.error] if self.error else []), *self.fresh]
        found += [*self.next_control, *self.brought, *self.dense]
        return list({array.name: array for array in found}.values())


ROUNDING = """\
static inline REAL remainder_of(REAL a, REAL b) {
  const REAL rest = fmod(a, b);
  return rest != 0 && (b < 0) != (rest < 0) ? rest + b : rest;
}
static inline REAL floor_divide(REAL a, REAL b) {
  if (b == 0) return a / b;
  const REAL rest = fmod(a, b), near = (a - rest) / b;
  const REAL exact = rest != 0 && (b < 0) != (rest < 0) ? near - 1 : near;
  if (exact == 0) return copysign(0, a / b);
  const REAL whole = floor(exact);
  return exact - whole > 0.5 ? whole + 1 : whole;
}
"""
"""As PyTorch rounds: a quotient by ``floor(a / b)`` alone is one too large now and then."""

VECTORS = (
    ("cos", "exp", "log", "sin", "pow"),
    (
        *("acos", "acosh", "asin", "asinh", "atan", "atanh", "cbrt", "cosh", "erf", "erfc", "exp2"),
        *("expm1", "log10", "log1p", "log2", "sinh", "tan", "tanh", "atan2", "hypot"),
    ),
)
"""What the GNU C library has for several numbers at a time, since 2.22 and since 2.35.

Right to 4 units in the last place, with special numbers as they should be; its own header offers
them only to who gives up the rules for those.
"""

HEADER = """\
#include <math.h>
#include <stdint.h>
#include <string.h>
#define SNAP 0x1.000000044b830p+0
#define TINY 0x1p-50
static inline int all_finite(const REAL *x, int64_t n) {
  for (int64_t i = 0; i < n; ++i) if (!(fabs((double)x[i]) < INFINITY)) return 0;
  return 1;
}
"""

LOOP = """\
    int64_t attempts = counts[0], accepted = counts[1], completed = counts[2];
    int64_t row = counts[3], saved = 0, status = -1;
    int finite = (int)counts[5];
    const int64_t last = attempts + budget;
    while (1) {
      const double left = fabs(h);
      if (!(left < INFINITY) || left <= fmax(TINY * fabs(t), floor_)) {
        status = finite ? 2 : 3; break;
      }
      if (attempts == max_steps) { status = 1; break; }
      if (attempts == last || saved == capacity) { status = -1; break; }
      const double room = before - t;
      const int clipped = left * stretch >= fabs(room);
      const double asked = clipped ? room : h;
      const double length = clipped ? room : (t + h) - t;
      STEP
      ++attempts;
      double next; int accept;
      DECIDE
      if (!accept) { h = next; finite = FINITE; continue; }
      finite = 1;
      const double t1 = clipped ? at : t + length;
      ROWS
      KEEP
      ++accepted;
      h = left > fabs(room) * SNAP ? (fabs(next) >= left ? next : h) : next;
      t = t1;
      if (clipped) { status = 0; break; }
    }
    counts[0] = attempts; counts[1] = accepted; counts[2] = completed;
    counts[3] = row; counts[4] = status; counts[5] = finite; counts[6] = saved;
"""

ROWS = """\
      {
        int whole = 0;
        while (row < rows && (times[row] - t1) * sign <= 0) {
          REAL *target = out + row * ROW;
          if (times[row] == t1) { COPY }
          else {
            COMPLETE
            const double query = times[row];
            INTERPOLATE
          }
          ++row;
        }
        (void)whole;
      }
"""

RECORD = """\
      {
        int whole = 0;
        if (recorded) { COMPLETE }
        (void)whole;
        REAL *target = out + saved * ROW;
        COPY
        ends[saved] = t1; lengths[saved] = length;
        if (recorded) { DENSE }
        ++saved;
      }
"""


def prelude(real: torch.dtype) -> str:
    """What stands before all code for states of this dtype."""
    single = ROUNDING.replace("REAL", "float")
    for name in ("remainder_of", "floor_divide", "fmod", "copysign", "floor"):
        single = re.sub(rf"\b{name}\(", f"{name}f(", single)
    text = "#include <math.h>\n#if defined(__x86_64__) && defined(__GLIBC__) && __GNUC__ >= 8\n"
    for version, names in zip(("2, 22", "2, 35"), VECTORS, strict=True):
        text += f"#if __GLIBC_PREREQ({version})\n"
        for name in names:
            args = ", ".join("R" for _ in range(1 + (name in ("pow", "atan2", "hypot"))))
            for kind, suffix in (("double", ""), ("float", "f")):
                text += "#pragma omp declare simd notinbranch\n"
                text += f"extern {kind} {name}{suffix}({args.replace('R', kind)});\n"
        text += "#endif\n"
    text += "#endif\n"
    text += HEADER.replace("REAL", TYPES[real]) + ROUNDING.replace("REAL", "double") + single
    return text


def source(parts: Parts, save: str) -> str:
    """The whole file; ``save`` is ``"times"``, ``"steps"`` or ``"last"``."""
    real = TYPES[parts.real]
    lanes = parts.form == "lanes"
    text = prelude(parts.real) + (
        "void solve(void **p, const int64_t *n, const double *r) {\n"
        "  const int64_t budget = n[0], max_steps = n[1], rows = n[2], lanes = n[3];\n"
        "  const int64_t capacity = n[4], recorded = n[5], COUNT = n[6];\n"
        "  (void)rows; (void)recorded; (void)COUNT; (void)lanes;\n"
        "  const double stretch = r[2 * lanes];\n"
        "  double *carried_t = p[0], *carried_h = p[1]; int64_t *counted = p[2];\n"
        "  const double *begins = p[3], *all_times = p[4]; const double *edges = p[5];\n"
        f"  {real} *restrict all_out = p[6]; double *ends = p[7], *lengths = p[8];\n"
        "  (void)ends; (void)lengths; (void)all_out; (void)all_times; (void)begins;\n"
    )
    place = 9
    for array in parts.carried:
        text += f"  {TYPES[array.dtype]} *all_{array.name} = p[{place}];\n"
        place += 1
    given = [(x.name, x.dtype) for x in parts.tolerances]
    for name, dtype in (*given, *parts.outside):
        text += f"  const {TYPES[dtype]} *restrict {name} = p[{place}];\n"
        place += 1
    if not lanes:
        for array in parts.spare:
            text += f"  {TYPES[array.dtype]} *restrict {array.name} = p[{place}];\n"
            place += 1
        for array in parts.carried:
            text += f"  {TYPES[array.dtype]} *restrict {array.name} = all_{array.name};\n"
    if parts.dense:
        text += f"  void **keeps = p + {place};\n  (void)keeps;\n"
    text += "  for (int64_t lane = 0; lane < lanes; ++lane) {\n"
    text += (
        "    int64_t *counts = counted + lane * 8;\n"
        "    if (counts[4] != -1) continue;\n"
        "    double t = carried_t[lane], h = carried_h[lane];\n"
        "    const double before = edges[lane * 2], at = edges[lane * 2 + 1];\n"
        "    const double sign = r[lane * 2], floor_ = r[lane * 2 + 1];\n"
        "    const double *times = all_times + lane * rows; (void)times; (void)sign;\n"
        f"    {real} *restrict out = all_out + lane * {parts.width}; (void)out;\n"
    )
    if lanes:
        text += "    const int64_t b = lane; (void)b;\n"
        for array in (*parts.carried, *parts.spare):
            text += f"    {TYPES[array.dtype]} {array.name}[{max(array.places, 1)}];\n"
        text += "".join(_loaded(a, "lane") for a in parts.carried)
    text += _filled(parts, save)
    if lanes:
        text += "".join(_stored(a, "lane") for a in parts.carried)
    text += "    carried_t[lane] = t; carried_h[lane] = h;\n  }\n}\n"
    return text


def _filled(parts: Parts, save: str) -> str:
    """The loop with its parts in place."""
    lanes = parts.form == "lanes"
    real = TYPES[parts.real]
    row = f"({parts.width} * lanes)" if lanes else f"({parts.width} * COUNT)"
    whole = f"{parts.width}" if lanes else f"({parts.width} * COUNT)"

    def block(name: str) -> str:
        return "{\n" + parts.stages[name].text("        ") + "      }"

    keep = "".join(
        f"memcpy({a.name}, {b.name}, sizeof({TYPES[a.dtype]}) * {_size(a, lanes=lanes)});\n      "
        for a, b in zip([parts.state, *parts.memory], [parts.trial, *parts.fresh], strict=True)
    )
    decide = block("decide") + "".join(
        f"\n      memcpy({a.name}, {b.name}, sizeof({TYPES[a.dtype]}) * {max(a.places, 1)});"
        for a, b in zip(parts.control, parts.next_control, strict=True)
    )
    finite = f"all_finite({parts.trial.name}, {whole})"
    if parts.error is not None:
        finite += f" && all_finite({parts.error.name}, {whole})"
    copy = _transposed("target", parts.trial, lanes=lanes)
    complete = ""
    if "complete" in parts.stages:
        complete = "if (!whole) { whole = 1; ++completed; " + block("complete") + " }"
    rows = ""
    if save == "times":
        rows = ROWS.replace("INTERPOLATE", block("interpolate"))
    elif save == "steps":
        dense = "".join(
            f"{{ {real} *place = ({real} *)keeps[{i}] + saved * ROW; "
            f"{_transposed('place', array, lanes=lanes)} }}\n"
            for i, array in enumerate(parts.dense)
        )
        rows = RECORD.replace("DENSE", dense)
    rows = rows.replace("COMPLETE", complete).replace("COPY", copy)
    rows = rows.replace("ROW", row).replace("REAL", real)
    text = LOOP.replace("STEP", block("step")).replace("DECIDE", decide)
    return text.replace("ROWS", rows).replace("KEEP", keep).replace("FINITE", finite)


def _size(array: Array, *, lanes: bool) -> str:
    return str(max(array.places, 1)) if lanes or not array.looped else array.size


def _transposed(target: str, array: Array, *, lanes: bool) -> str:
    """From one sample's numbers apart to one sample's numbers together."""
    if lanes or not array.looped:
        return f"for (int64_t c = 0; c < {array.places}; ++c) {target}[c] = {array.name}[c];"
    return (
        f"for (int64_t c = 0; c < {array.places}; ++c) for (int64_t b = 0; b < COUNT; ++b) "
        f"{target}[b * {array.places} + c] = {array.name}[c * COUNT + b];"
    )


def _loaded(array: Array, lane: str) -> str:
    base = f"all_{array.name} + {lane} * {array.places}"
    return f"    memcpy({array.name}, {base}, sizeof({array.name}));\n" if array.places else ""


def _stored(array: Array, lane: str) -> str:
    base = f"all_{array.name} + {lane} * {array.places}"
    return f"    memcpy({base}, {array.name}, sizeof({array.name}));\n" if array.places else ""
