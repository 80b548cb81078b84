"""From a neural network to an equation, and back: the whole of odekit in twenty lines."""

import torch

import odekit

system = odekit.create("system", "lotka_volterra")
series = system.series(n=150, noise=0.02, drop=0.5, seed=0)  # irregular, noisy observations

# 1. Straight from the data to the equations, with error bars and a verdict.
equations = odekit.discover(series)
print(equations, "\n", equations.coefficients.round(4).to_string(index=False))

# 2. The equations are a vector field again: solve it, differentiate through the solve.
field = equations.field()
y0 = system.y0.clone().requires_grad_()
solution = odekit.solve(field, y0, torch.linspace(0, 10, 200, dtype=torch.float64), rtol=1e-8)
solution.y[-1].sum().backward()
print("d(final state)/d(start) =", y0.grad.tolist(), "in", int(solution.stats.accepted), "steps")

# 3. Every part is a plugin: these are the solvers that are installed.
print(", ".join(entry.name for entry in odekit.components("solver")))
