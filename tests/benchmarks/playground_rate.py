"""How fast is the playground? Steps and pictures a second, for each loss, in Chromium.

    python tests/benchmarks/playground_rate.py [--seconds 10] [--width 1440]

The page of notebooks/pages/ opens from disk as a reader opens it, in a window without a screen, and
plays at full speed with its own settings: networks of notebook 7, a batch of 128. Two seconds pass
before the clock starts. A picture is everything that the page draws at once; it draws 30 a second
at most. The load is the mean number of running processes of the last minute, before the first
loss: on a busy machine the figures are lower.
"""

import argparse
import os
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "tests"))

import browser  # noqa: E402

GAMES = {
    "minimax": {"loss": "minimax"},
    "non-saturating": {"loss": "nonSaturating"},
    "non-saturating, R1": {"loss": "nonSaturating", "r1": 0.1},
    "least squares": {"loss": "leastSquares"},
    "hinge": {"loss": "hinge"},
    "Wasserstein, clipping": {"loss": "wasserstein", "clip": 0.1},
    "Wasserstein, penalty": {"loss": "wasserstein", "penalty": 0.1},
}
COUNT = """
var pictures = 0;
const drawAsBefore = drawEverything;
drawEverything = () => { drawAsBefore(); pictures += 1; };
"""


def measure(page, settings, seconds):
    """Steps and pictures a second of one game."""
    page.open(ROOT / "notebooks" / "pages" / "playground.html")
    page.wait("last !== null")
    page.ask(COUNT)
    page.ask(f"(Object.assign(settings, {settings}), showSettings(), tell({{ settings }}), play())")
    time.sleep(2)
    now = "[last.step, pictures, performance.now()]"
    before = page.ask(now)
    time.sleep(seconds)
    after = page.ask(now)
    steps, pictures, milliseconds = (b - a for a, b in zip(before, after, strict=True))
    if page.errors or page.ask("broken"):
        raise RuntimeError(f"The game has broken down: {page.errors}")
    return 1000 * steps / milliseconds, 1000 * pictures / milliseconds


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--width", type=int, default=1440)
    args = parser.parse_args()
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, {args.width} pixels wide")
    with browser.open_browser() as page:
        print(page.send("Browser.getVersion")["product"])
        page.resize(args.width)
        for name, settings in GAMES.items():
            steps, pictures = measure(page, settings, args.seconds)
            print(f"{name:24}{steps:8.0f} steps/s{pictures:8.1f} pictures/s", flush=True)


if __name__ == "__main__":
    main()
