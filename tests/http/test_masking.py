"""What is shown of URLs and of an origin's words has no secret in it, whatever was written wrong."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.http.masking import mask_url, mask_words

WORDS = st.text(alphabet=st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=8)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("rediss://me:hush@host:1/0?password=hush", "rediss://host:1/0"),
        ("redis://:hu/sh@host:6379/0", "redis://host:6379/0"),
        ("redis://:hu?sh@host/0", "redis://…"),
        ("redis://host/0?password=hu@sh", "redis://…"),
        ("redis://:hush-host:6379", "redis://…"),
        ("redis+sentinel://u:hush@a:1,b:2/mymaster/0", "redis+sentinel://a:1,b:2/mymaster/0"),
        ("redis://[::1]:6379/1", "redis://[::1]:6379/1"),
        ("unix:///run/redis.sock?password=hush", "unix:///run/redis.sock"),
        ("socks5://me:hush@proxy:1080", "socks5://proxy:1080"),
        ("https://store:9000/bucket?X-Amz-Signature=hush", "https://store:9000"),
        ("hush", "…"),
        ("hush hush://x", "…"),
    ],
)
def test_a_url_is_shown_without_its_secrets(url: str, shown: str) -> None:
    assert mask_url(url) == shown


@given(user=WORDS, password=WORDS)
def test_no_password_is_shown_however_it_is_written(user: str, password: str) -> None:
    secret = f"CANARY{password}"
    for url in (f"redis://{user}:{secret}@host:1/0", f"redis://host/0?password={secret}", f"http://{user}:{secret}@h"):
        assert "CANARY" not in mask_url(url)


def test_the_words_of_an_origin_are_one_bounded_line() -> None:
    assert mask_words("a\r\n\x00b\tc") == "a b c"
    assert len(mask_words("x" * 5000)) == 300


@pytest.mark.parametrize(
    "text",
    [
        "Signature=CANARY/+x, SignedHeaders=host",
        "Credential=CANARY/20261130/us-east-1",
        "x-amz-security-token: CANARY",
        "Authorization: Bearer CANARY",
        "X-Goog-Signature=1&X-Amz-Security-Token=CANARY",
    ],
)
def test_what_a_server_quotes_of_a_signed_request_is_masked(text: str) -> None:
    assert "CANARY" not in mask_words(text)
