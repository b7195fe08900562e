"""fastnn beside other libraries: microseconds a step, as ``python -m fastnn bench`` measures them."""

from fastnn._cli import bench
from fastnn._cli.bench import peers
from fastnn._cli.bench.workloads import WORKLOADS

# torch-compile takes most of a minute to compile; threads do not compare on one core.
PEERS = tuple(name for name in peers.NAMES if name != "torch-compile" and not name.endswith("-threads"))
# The two left out take longest and say little more.
WORKS = tuple(name for name in WORKLOADS if name not in ("784-512-512-10", "predict-100000"))
OPTIONS = bench.Options(WORKS, PEERS, rounds=3, seconds=0.02)


class Step:
    """Medians of three short interleaved rounds; a peer that is not installed, or cannot do it, is skipped."""

    params = (WORKS, PEERS)
    param_names = ("workload", "peer")
    unit = "microseconds"

    def setup_cache(self):
        """All of it in one process, so that each library is imported once and the rounds are interleaved."""
        return bench.collect(OPTIONS, print)

    setup_cache.timeout = 300

    def setup(self, result, workload, peer):
        works = {work["name"]: work["peers"] for work in result["workloads"]}
        self.entry = works[workload].get(peer, {"status": "unavailable"})
        if self.entry["status"] == "unavailable":
            raise NotImplementedError

    def track_microseconds(self, result, workload, peer):
        return self.entry["median_us"]  # a peer that failed or learns something else has none: asv reports a failure
