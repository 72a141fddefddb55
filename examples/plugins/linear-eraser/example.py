"""Erase which of two sources an embedding came from, and keep what it says.

Two sources of embeddings, such as two hospitals or two microphones, differ by an offset that every classifier would
notice. After erasure none can, and the content is read as well as before.
"""

import torch
from latent.core.metrics.probe import logistic_probe
from latent.core.run.seed import generator

from linear_eraser.methods.leace import LinearEraser, LinearEraserConfig


def embeddings(part: str, samples: int = 6000) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return embeddings `[samples 24]`, the source of each (0 or 1) and its content (0, 1 or 2)."""
    fixed, stream = generator(0, "population"), generator(0, part)
    mixing = torch.randn(24, 24, generator=fixed) / 24**0.5
    offset, contents = 0.5 * torch.randn(24, generator=fixed), torch.randn(3, 24, generator=fixed)
    source = torch.randint(2, (samples,), generator=stream)
    content = torch.randint(3, (samples,), generator=stream)
    noise = torch.randn(samples, 24, generator=stream) @ mixing
    return noise + source[:, None] * offset + contents[content], source, content


def main() -> None:
    """Fit on some rows, and probe others before and after."""
    x, source, _ = embeddings("fit")
    eraser = LinearEraser(LinearEraserConfig(features=24, concepts=2)).fit(x, source)
    x, source, content = embeddings("new")
    print("accuracy of a linear probe     source  content")
    for name, rows in (("before", x), ("after", eraser.encode(x))):
        scores = [float(logistic_probe(rows, y, generator=generator(0, "probe")).score) for y in (source, content)]
        print(f"  {name:<27}  {scores[0]:6.2f}  {scores[1]:7.2f}")


if __name__ == "__main__":
    main()
