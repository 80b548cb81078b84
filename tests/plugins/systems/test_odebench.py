"""ODEBench: where its solutions end, its two starts, and how its classes behave."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import sympy
import torch

import odekit
from odekit.cli.frame import run
from odekit_systems import odebench

# The states at t = 10 from both starts, integrated at rtol 1e-13, of the systems whose solutions
# do not part from each other exponentially.
ENDS = {
    1: ((1.08841,), (0.913223,)),
    2: ((47.6766,), (8.67754,)),
    3: ((74.048,), (74.2302,)),
    4: ((3.46702,), (-3.16916,)),
    5: ((60.9466,), (68.332,)),
    6: ((4.2,), (4.2,)),
    7: ((2.90753,), (30.3497,)),
    8: ((93.0657,), (0.81867,)),
    9: ((0.532358,), (0.533375,)),
    10: ((0.0167747,), (0.000503088,)),
    11: ((0.223125,), (0.221455,)),
    12: ((16.2602,), (16.2602,)),
    13: ((1.46895,), (1.46761,)),
    14: ((78.8068,), (79.8091,)),
    15: ((90.1344,), (47.4526,)),
    16: ((6.50848,), (6.50851,)),
    17: ((88.5331,), (95.6532,)),
    18: ((93.0587,), (97.2914,)),
    19: ((0.95382,), (0.951461,)),
    20: ((0.324349,), (0.427985,)),
    21: ((4.73121,), (5.14064,)),
    22: ((1.60989,), (1.61128,)),
    23: ((0.211209,), (0.211697,)),
    24: ((-0.158157, -0.533265), (0.129445, -0.0693699)),
    25: ((-0.00588445, -0.0266672), (-0.0128378, 0.0248316)),
    26: ((0.000866775, 1.99828), (0.000119306, 1.99976)),
    27: ((0.124768, 0.190216), (0.656608, 0.268953)),
    28: ((-0.955131, 1.27335), (0.115385, -0.84168)),
    29: ((0.0965008, -0.161354), (0.100753, -0.16484)),
    30: ((0.541814, 0.477604), (0.540532, 0.557543)),
    31: ((0.000382435, 0.452837), (1.4824e-16, 1.43693)),
    33: ((0.259498, 19.6297), (0.861591, 26.3295)),
    34: ((0.633001, -1.4295), (-0.921743, -0.506185)),
    35: ((-1.31622, -0.810589), (3.29347, 2.64328)),
    36: ((0.0050658, -0.00693584), (-0.00309686, -0.00281964)),
    37: ((-1.89763, 0.563448), (-0.735666, -2.1757)),
    38: ((1.64572, -0.240554), (-1.91211, -0.356159)),
    39: ((0.0275672, 0.0141838), (0.0342185, 0.0140505)),
    40: ((-1.37697, 0.920217), (-1.99333, -0.0336318)),
    42: ((2.74596, 4.88325), (1.24187, 3.31809)),
    43: ((20.1795, 2.61403), (20.9036, 2.3588)),
    44: ((14.5168, 1.19468), (13.1823, 1.63325)),
    45: ((0.0351648, 3.73349), (0.0223736, 4.69212)),
    46: ((0.0104035, -0.0103819), (-0.0144593, 0.0145496)),
    47: ((0.493103, 0.279873), (0.116245, 0.698547)),
    48: ((7.87356, 47.3286), (0.543305, 37.4064)),
    49: ((1.0212, 0.951415), (0.998848, 0.977225)),
    50: ((1.6707, 0.51208), (1.67, 0.512753)),
    51: ((16.003, 9.87295), (11.8203, 7.07027)),
    52: ((1.05299, 0.958568, 0.998525), (0.982846, 1.00017, 1.05621)),
    53: ((0.0125002, 2.23593, 0.174073), (0.926518, 0.00106723, 0.0989328)),
    54: ((4.34079, 4.57161, 10.7532), (4.57375, 3.92635, 12.1236)),
    57: ((0.00654249, -0.0342704, 0.0351264), (0.00502069, -0.0135855, 0.0351398)),
    58: ((2.70979, 6.30937, 1.73186), (-6.05166, 4.28269, 0.0177648)),
    60: ((-0.807662, -1.03069, 1.26035), (1.01991, -0.149476, -0.134324)),
    62: ((0.639658, 0.640098, 0.640007, 0.639573), (0.639788, 0.639923, 0.639905, 0.639725)),
    63: ((0.386606, 0.0344832, 0.0979936, 0.480917), (0.226367, 0.0227711, 0.0908893, 0.659973)),
}
POLYNOMIALS_UP_TO_THREE = {1: 10, 2: 16, 3: 8, 4: 1}


def test_there_are_sixty_three_with_two_starts_each():
    names = {e.name for e in odekit.components("system") if e.name.startswith("odebench")}
    assert names == {f"odebench_{number}" for number in range(1, 64)}
    assert len(ENDS) == 57
    for number in range(1, 64):
        system = odekit.create("system", f"odebench_{number}")
        assert len(system.starts) == 2
        assert {len(start) for start in system.starts} == {len(system.names)}
        assert system.span == (0.0, 10.0)
        assert system.names == tuple(f"x{i}" for i in range(len(system.names)))


@pytest.mark.parametrize("number", ENDS)
def test_solutions_end_where_they_should(number):
    system = odekit.create("system", f"odebench_{number}")
    for start, end in zip(system.starts, ENDS[number], strict=True):
        found = system.truth([0.0, 10.0], start)[-1].numpy()
        np.testing.assert_allclose(found, end, rtol=1e-5, atol=1e-8)


def test_the_polynomials_are_as_many_as_the_benchmark_says():
    found = dict.fromkeys(POLYNOMIALS_UP_TO_THREE, 0)
    for number in range(1, 64):
        right = odekit.create("system", f"odebench_{number}").sympy()
        states = [sympy.Symbol(name) for name in right]
        found[len(states)] += all(
            e.is_polynomial(*states) and sympy.Poly(e, *states).total_degree() <= 3
            for e in right.values()
        )
    assert found == POLYNOMIALS_UP_TO_THREE


def test_parameters_can_be_changed_and_are_checked():
    system = odekit.create("system", "odebench_24", c0=4.0)
    assert system.parameters == {"c0": 4.0}
    assert repr(system) == "Odebench24(c0=4.0)"
    t = torch.linspace(0, 10, 11, dtype=torch.float64)
    expected = 0.4 * torch.cos(2 * t) - 0.03 / 2 * torch.sin(2 * t)
    torch.testing.assert_close(system.truth(t)[:, 0], expected, rtol=0, atol=1e-7)
    with pytest.raises(odekit.IncompatibleError, match="its options are: c0"):
        odekit.create("system", "odebench_24", c1=1.0)
    with pytest.raises(odekit.ProblemError, match="c0 must be finite"):
        odekit.create("system", "odebench_24", c0=float("inf"))


def test_classes_are_made_once_named_and_documented():
    known = odebench.Odebench23
    assert known is odebench.Odebench23
    assert known.title == "overdamped pendulum with constant torque"
    assert "Source: Strogatz, p. 104." in known.__doc__
    assert pickle.loads(pickle.dumps(known())).parameters == {"c0": 0.21}
    with pytest.raises(AttributeError, match="Odebench64"):
        _ = odebench.Odebench64


def test_listings_show_them_as_one_piece_unless_asked(capsys):
    assert run(["plugins"]) == 0
    out = capsys.readouterr().out
    assert out.count("odebench") == 2
    assert "odebench_1 to odebench_63" in out
    for name in ("lorenz", "tsit5", "dopri5", "dopri8"):
        assert f" {name} " in out
    assert run(["plugins", "--kind", "system"]) == 0
    assert capsys.readouterr().out.count(" odebench_") == 63
    with pytest.raises(odekit.UnknownNameError, match="odebench_1 to odebench_63, pendulum"):
        odekit.create("system", "odebench_64")


def test_the_licence_stands_with_the_tables():
    for sentence in ("Copyright (c) 2023", "The above copyright notice", "arXiv:2310.05573"):
        assert sentence in odebench.__doc__
