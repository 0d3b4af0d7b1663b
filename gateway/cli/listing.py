"""`nereid list`."""

from __future__ import annotations

from collections.abc import Iterator

from gateway.registry import discover


def lines() -> Iterator[str]:
    """Every function with what it answers and how it may run."""
    for function in sorted(discover(), key=lambda f: f.name):
        yield f"{function.name:<18} {function.summary}"
        for route in function.routes:
            policy = route.opt["policy"]
            scope = " or ".join(policy.any_of) or "public"
            for path in sorted(route.paths):
                shown = path + route.opt.get("openapi_suffix", "")
                methods = ",".join(sorted(m for m in route.http_methods if m != "OPTIONS"))
                yield f"  {methods} {shown}  [{scope}]"
        for consumer in function.consumers:
            policy = consumer.policy
            yield (
                f"  {consumer.subject}  [at once {policy.concurrency}"
                f"{f' + {policy.express} express' if policy.express else ''}, "
                f"attempts {policy.attempts}, timeout {policy.timeout_s:g} s"
                f"{f', batch {policy.batch}' if policy.batch > 1 else ''}]"
            )
