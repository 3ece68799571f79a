"""
The cache as JSON over HTTP, at the paths of its contracts, through the gateway.
"""

from __future__ import annotations

import base64
import time

import grpc
import pytest

from embedded.stack import Stack
from modelyard.cache.v1.cache_pb2 import ScanRequest
from modelyard.cache.v1.cache_pb2_grpc import KeyValueServiceStub
from tests.end_to_end.rest import call, done


def encoded(value: bytes) -> str:
    """
    Bytes as JSON has them.
    """
    return base64.b64encode(value).decode()


def test_values(stack: Stack) -> None:
    """
    Values are set, read, touched, counted, listed and deleted.
    """
    keys = "cache/shared/keys"
    done(stack, "PUT", f"{keys}/json:a", {"value": encoded(b"one"), "tags": ["t"], "ttl": "60s"})
    assert done(stack, "GET", f"{keys}/json:a")["entry"]["value"] == encoded(b"one")
    assert "expireTime" in done(stack, "POST", f"{keys}/json:a:touch", {"ttl": "120s"})
    assert done(stack, "POST", f"{keys}/json:n:increment", {"delta": "5"}) == {"value": "5"}
    entries = [{"key": "json:b", "value": encoded(b"two")}]
    done(stack, "POST", f"{keys}:batchSet", {"entries": entries})
    assert sorted(done(stack, "GET", keys, key_prefix="json:")["keys"]) == ["json:a", "json:b", "json:n"]
    found = done(stack, "POST", f"{keys}:batchGet", {"keys": ["json:a", "json:b", "json:c"]})
    assert [each["key"] for each in found["entries"]] == ["json:a", "json:b"]
    assert done(stack, "POST", f"{keys}:delete", {"keys": ["json:a", "json:c"]}) == {"deletedCount": "1"}
    status, answer = call(stack, "GET", f"{keys}/json:a")
    assert (status, answer["details"][0]["reason"]) == (404, "KEY_NOT_FOUND")


def test_all_that_is_of_a_user(stack: Stack) -> None:
    """
    One call makes everything stale that has a tag.
    """
    for number in "12":
        done(stack, "PUT", f"cache/shared/keys/s{number}", {"value": encoded(b"x"), "tags": ["user:ada"]})
    done(stack, "POST", "cache/shared/tags:invalidate", {"tags": ["user:ada"]})
    assert [call(stack, "GET", f"cache/shared/keys/s{number}")[0] for number in "12"] == [404, 404]


def test_a_namespace_that_is_not_for_the_gateway(stack: Stack) -> None:
    """
    Sessions are not there for those who call through the gateway, whatever they say of themselves; services that call
    the cache find them.
    """
    status, answer = call(stack, "GET", "cache/sessions/keys")
    assert (status, answer["details"][0]["reason"]) == (400, "UNKNOWN_NAMESPACE")
    assert "sessions" not in answer["message"]
    scan = ScanRequest(namespace="sessions")
    with grpc.insecure_channel(stack.gateway) as channel:
        for sent in ("", "127.0.0.1"):
            with pytest.raises(grpc.RpcError) as refused:
                KeyValueServiceStub(channel).Scan(scan, metadata=(("x-modelyard-client", sent),), timeout=10)
            assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    host, port = stack.services["cache"].addresses[0]
    with grpc.insecure_channel(f"{host}:{port}") as channel:
        KeyValueServiceStub(channel).Scan(scan, timeout=10)


def test_leases(stack: Stack) -> None:
    """
    One caller may fill a key; a filler that was overtaken may not.
    """
    keys = "cache/shared/keys"
    token = done(stack, "POST", f"{keys}/json:l:getOrLease", {})["lease"]["token"]
    assert "retryDelay" in done(stack, "POST", f"{keys}/json:l:getOrLease", {})
    done(stack, "PUT", f"{keys}/json:l", {"value": encoded(b"set")})
    filled = {"lease_token": token, "entry": {"value": encoded(b"filled")}}
    status, answer = call(stack, "POST", f"{keys}/json:l:fill", filled)
    assert (status, answer["details"][0]["reason"]) == (409, "LEASE_LOST")
    assert done(stack, "POST", f"{keys}/json:l:getOrLease", {})["entry"]["value"] == encoded(b"set")


def test_bad_input_names_the_field(stack: Stack) -> None:
    """
    What is wrong is said with the field's name.
    """
    status, answer = call(stack, "PUT", "cache/nonsense/keys/a", {"value": ""})
    assert (status, answer["details"][0]["reason"]) == (400, "UNKNOWN_NAMESPACE")
    status, answer = call(stack, "PUT", "cache/shared/keys/a", {"value": "", "ttl": "-1s"})
    assert status == 400, answer
    violations = [violation for detail in answer["details"] for violation in detail.get("fieldViolations", ())]
    assert [violation["field"] for violation in violations] == ["entry.ttl"]


def test_the_cache_says_how_it_is(stack: Stack) -> None:
    """
    Its state is shown, and it is warmed up and emptied.
    """
    for _ in range(100):
        if done(stack, "GET", "cache:status")["streams"][0]["connected"]:
            break
        # The registry may have been the last to start.
        time.sleep(0.1)
    else:
        pytest.fail("the cache does not follow the registry's changes")
    done(stack, "POST", "cache:warm", {"key_count": 10, "rate": 1000})
    done(stack, "POST", "cache:flush", {"shared": True})
    assert int(done(stack, "GET", "cache/shared/stats").get("entries", "0")) >= 0
