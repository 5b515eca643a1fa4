"""Who gets in, with which key or token, what they may do there, and what is kept of it."""

import base64
import hashlib
import hmac
import json
import logging
import os
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest
from conftest import LLMCTL, Server, wait_until
from cryptography.hazmat.primitives.asymmetric import rsa
from redis import Redis
from test_api import PROBLEM, SOME_ID, Api, configuration

from llm_scheduler.api.access import api_keys, audit_log, key_file
from llm_scheduler.api.access.api_keys import KeyFileError, read_keys
from llm_scheduler.api.access.audit_log import AuditLog, Call
from llm_scheduler.api.access.failures import ATTEMPTS, FailedAttempts
from llm_scheduler.api.access.key_file import KeyNameError, create_key, revoke_key
from llm_scheduler.api.access.roles import Role
from llm_scheduler.jobs.clock import rfc3339
from llm_scheduler.jobs.config import ConfigError, load
from llm_scheduler.jobs.store.keys import Keys

ADMIN = "the-key-of-the-admin-0123456789abcdef"
READER = "the-key-of-the-reader-0123456789abcde"
SECRET = "a secret of tokens that nobody can guess at all, and long enough for HS512, too"
SECONDS = 600
STREAM = Keys().audit
NOW = 1_800_000_000.0


@pytest.fixture
def make_api(tmp_path: Path, redis_server: Server) -> Iterator[Callable[..., Api]]:
    """An API that asks for keys; `security` changes that."""
    made: list[Api] = []

    def make(url: str = redis_server.url, **security: Any) -> Api:
        settings = {
            "api_key_enabled": True,
            "api_keys": {"admin": ADMIN, "readonly": READER},
            "api_keys_file": str(tmp_path / "keys" / "keys.json"),
            "jwt_enabled": True,
            "jwt_secret": SECRET,
            "jwt_expiration": SECONDS,
            **security,
        }
        made.append(Api(tmp_path / "spool", url, security=settings))
        return made[-1]

    yield make
    for each in made:
        each.stop()


@pytest.fixture
def served(make_api: Callable[..., Api]) -> Api:
    return make_api()


def made_key(api: Api, name: str, role: Role = Role.READONLY, expires_at: float | None = None) -> str:
    """A named key that the API knows of from now on."""
    text = create_key(api.config.security.api_keys_file, name, role, api.clock.at, expires_at).text
    api.clock.at += 1.1
    return text


def revoked(api: Api, name: str) -> None:
    assert revoke_key(api.config.security.api_keys_file, name)
    api.clock.at += 1.1


def ask(api: Api, method: str, path: str, key: str | None = None, token: str | None = None, **more: Any) -> Any:
    headers = {**({"X-API-Key": key} if key else {}), **({"Authorization": f"Bearer {token}"} if token else {})}
    return api.http.request(method, path, headers={**headers, **more.pop("headers", {})}, **more)


def status(api: Api, method: str, path: str, key: str | None = None, token: str | None = None, **more: Any) -> int:
    answer = ask(api, method, path, key, token, **more)
    if answer.status_code >= 400:
        assert answer.headers["content-type"] == PROBLEM
        assert answer.json()["status"] == answer.status_code
        assert answer.json()["detail"]
    found: int = answer.status_code
    return found


def token_of(api: Api, key: str, **asked: Any) -> str:
    answer = ask(api, "POST", "/token", key, json=asked) if asked else ask(api, "POST", "/token", key)
    assert answer.status_code == 200, answer.text
    text: str = answer.json()["access_token"]
    return text


def signed(secret: Any = SECRET, algorithm: str = "HS256", **claims: Any) -> str:
    """A token that looks right but for what is said; a claim that is None is left out."""
    all_claims = {"iss": "llm-api", "sub": "admin", "role": "admin", "iat": int(NOW), "exp": int(NOW) + 60, **claims}
    kept = {name: value for name, value in all_claims.items() if value is not None}
    return jwt.encode(kept, secret, algorithm=algorithm)


def recorded(api: Api, **query: Any) -> list[dict[str, Any]]:
    """The record as an admin sees it, newest first."""
    answer = ask(api, "GET", "/audit", ADMIN, params=query)
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["calls"]
    return found


# Keys


def test_each_role_may_do_what_it_is_for_and_no_more(served: Api) -> None:
    named = {role: made_key(served, f"a-{role}", role) for role in Role}
    for role, key in named.items():
        assert status(served, "GET", "/jobs", key) == 200
        assert status(served, "POST", "/jobs", key, json=[1]) == (202 if role.includes(Role.SUBMITTER) else 403)
        assert status(served, "GET", "/audit", key) == (200 if role is Role.ADMIN else 403)
    assert "readonly" in ask(served, "GET", "/audit", named[Role.READONLY]).json()["detail"]


def test_a_key_lets_in_only_as_it_was_made(served: Api) -> None:
    key = made_key(served, "ci")
    other = made_key(served, "other")
    assert api_keys._FORM.fullmatch(key.encode())
    _, key_id, secret = key.split("_", 2)
    wrong = [f"llm_{other.split('_')[1]}_{secret}", f"llm_00000000_{secret}", key[:-1], f"{key}x", secret]
    wrong += [key.upper(), f"llm_{key_id}_{'A' * 43}"]
    for each in wrong[:ATTEMPTS]:
        assert status(served, "GET", "/jobs", each) == 401, each
    assert status(served, "GET", "/jobs", key) == 200
    twice = served.http.get("/jobs", headers=[("X-API-Key", key), ("X-API-Key", key)])
    assert twice.status_code == 401


def test_a_named_key_may_be_sent_as_a_bearer(make_api: Callable[..., Api]) -> None:
    served = make_api(jwt_enabled=False)
    key = made_key(served, "prometheus", "readonly")
    assert status(served, "GET", "/jobs", token=key) == 200
    assert status(served, "GET", "/audit", token=key) == 403
    assert status(served, "GET", "/jobs", token=key[:-1]) == 401
    assert status(served, "GET", "/jobs", token=ADMIN) == 401, "no named key"
    assert status(served, "GET", "/jobs", ADMIN, token=key) == 200


def test_how_long_a_refusal_takes_says_nothing(served: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    key = made_key(served, "ci")
    compared: list[tuple[Any, Any]] = []

    def spied(one: Any, other: Any) -> bool:
        compared.append((one, other))
        return constant_time(one, other)

    constant_time = hmac.compare_digest
    monkeypatch.setattr(api_keys.hmac, "compare_digest", spied)
    counts = set()
    for given in (key, f"{key[:-1]}x", f"llm_00000000_{key[13:]}", ADMIN, READER, "x", "é" * 500):
        compared.clear()
        status(served, "GET", "/jobs", headers={"X-API-Key": given.encode()})
        counts.add(len(compared))
        assert all(len(one) == len(other) == 64 for one, other in compared), "only hashes are compared"
    assert counts == {3}


def test_a_key_of_the_configuration_may_be_given_as_its_hash(make_api: Callable[..., Api]) -> None:
    served = make_api(api_keys={"admin": f"sha256:{hashlib.sha256(ADMIN.encode()).hexdigest()}"})
    assert status(served, "GET", "/audit", ADMIN) == 200
    assert status(served, "GET", "/jobs", served.config.security.api_keys.admin) == 401, "the hash opens nothing"


def test_keys_count_and_stop_counting_within_a_second(served: Api) -> None:
    key = made_key(served, "ci")
    assert status(served, "GET", "/jobs", key) == 200
    revoke_key(served.config.security.api_keys_file, "ci")
    served.clock.at += 1.1
    assert status(served, "GET", "/jobs", key) == 401


def test_a_key_ends_when_it_was_said_to(served: Api) -> None:
    key = made_key(served, "ci", expires_at=served.clock.at + 100)
    assert status(served, "GET", "/jobs", key) == 200
    served.clock.at += 99
    answer = ask(served, "GET", "/jobs", key)
    assert answer.status_code == 401
    assert "expired" in answer.json()["detail"]


def test_a_broken_file_leaves_the_keys_as_they_were_and_says_so(served: Api, caplog: pytest.LogCaptureFixture) -> None:
    key = made_key(served, "ci")
    assert status(served, "GET", "/jobs", key) == 200
    path = Path(served.config.security.api_keys_file)
    whole = path.read_text()
    broken = [whole[:-5], "[]", whole.replace('"ci"', '"admin"'), whole.replace("readonly", "boss"), "\xff"]
    broken += [whole.replace('"expires_at"', '"expires"')]
    for content in broken:
        path.write_bytes(content.encode("latin-1"))
        served.clock.at += 61
        caplog.clear()
        assert status(served, "GET", "/jobs", key) == 200, content
        assert "can't be used" in caplog.text, content
        assert status(served, "GET", "/jobs", ADMIN) == 200
    path.write_text('{"keys": []}')
    served.clock.at += 1.1
    assert status(served, "GET", "/jobs", key) == 401
    path.write_text(whole)
    served.clock.at += 1.1
    assert status(served, "GET", "/jobs", key) == 200
    path.unlink()
    served.clock.at += 1.1
    assert status(served, "GET", "/jobs", key) == 401, "a file that is gone takes its keys with it"


def test_a_file_that_others_may_write_lets_nobody_in(served: Api) -> None:
    key = made_key(served, "ci")
    path = Path(served.config.security.api_keys_file)
    path.chmod(0o620)
    with pytest.raises(KeyFileError, match="chmod 600"):
        read_keys(str(path))
    assert status(served, "GET", "/jobs", key) == 401
    path.chmod(0o600)
    served.clock.at += 1.1
    assert status(served, "GET", "/jobs", key) == 200


def test_keys_work_without_redis(make_api: Callable[..., Api], tmp_path: Path) -> None:
    served = make_api(f"unix://{tmp_path}/nothing")
    key = made_key(served, "ci", Role.ADMIN)
    assert status(served, "POST", "/jobs", key, json=[1]) == 202
    token = token_of(served, key)
    assert status(served, "POST", "/jobs", token=token, json=[1]) == 202
    assert status(served, "GET", "/audit", key) == 503


# The file of keys


def test_two_who_make_keys_at_once_lose_none(tmp_path: Path) -> None:
    path = str(tmp_path / "keys.json")
    script = (
        "import sys\n"
        "from llm_scheduler.api.access.key_file import create_key\n"
        "from llm_scheduler.api.access.roles import Role\n"
        "for number in range(15): create_key(sys.argv[1], f'{sys.argv[2]}-{number}', Role.READONLY, 1e9)"
    )
    makers = [subprocess.Popen([sys.executable, "-c", script, path, each], cwd=tmp_path) for each in ("a", "b", "c")]
    assert [maker.wait(60) for maker in makers] == [0, 0, 0]
    assert {key.name for key in read_keys(path)} == {f"{maker}-{number}" for maker in "abc" for number in range(15)}


def test_the_file_is_its_owners_and_is_never_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "keys.json"
    old_mask = os.umask(0)
    try:
        create_key(str(path), "one", Role.READONLY, 1e9)
    finally:
        os.umask(old_mask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.chmod(0o640)
    create_key(str(path), "two", Role.READONLY, 1e9)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640, "what the operator widened stays"
    before = path.read_bytes()

    def full(*arguments: Any, **options: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(key_file, "write_file", full)
    with pytest.raises(OSError, match="No space"):
        create_key(str(path), "three", Role.READONLY, 1e9)
    assert path.read_bytes() == before
    assert sorted(each.name for each in tmp_path.iterdir()) == ["keys.json", "keys.json.lock"]


def test_a_link_to_the_file_stays_one(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "keys.json").symlink_to(tmp_path / "real" / "keys.json")
    create_key(str(tmp_path / "keys.json"), "one", Role.READONLY, 1e9)
    assert (tmp_path / "keys.json").is_symlink()
    assert len(read_keys(str(tmp_path / "real" / "keys.json"))) == 1


@pytest.mark.parametrize("name", ["admin", "readonly", "local", "Admin"])
def test_some_names_have_a_meaning_already(tmp_path: Path, name: str) -> None:
    with pytest.raises(KeyNameError):
        create_key(str(tmp_path / "keys.json"), name, Role.READONLY, 1e9)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes files for others")
def test_what_root_makes_belongs_to_who_has_the_folder(tmp_path: Path) -> None:
    os.chown(tmp_path, 1234, 2345)
    create_key(str(tmp_path / "keys.json"), "one", Role.READONLY, 1e9)
    for name in ("keys.json", "keys.json.lock"):
        found = (tmp_path / name).stat()
        assert (found.st_uid, found.st_gid) == (1234, 2345), name


# Tokens


def test_a_key_makes_tokens_up_to_what_it_may_itself(served: Api) -> None:
    key = made_key(served, "ci", Role.OPERATOR)
    answer = ask(served, "POST", "/token", key)
    assert answer.headers["cache-control"] == "no-store"
    found = answer.json()
    assert (found["token_type"], found["expires_in"], found["role"]) == ("bearer", SECONDS, "operator")
    assert status(served, "GET", "/jobs", token=found["access_token"]) == 200
    lower = token_of(served, key, role="readonly", expires_in=5)
    assert status(served, "GET", "/jobs", token=lower) == 200
    assert status(served, "POST", "/jobs", token=lower, json=[1]) == 403
    assert status(served, "POST", "/token", key, json={"role": "admin"}) == 403
    assert status(served, "POST", "/token", key, json={"expires_in": SECONDS + 1}) == 422
    assert status(served, "POST", "/token", token=found["access_token"]) == 403, "no token makes another"
    assert status(served, "POST", "/token") == 401


@pytest.mark.parametrize(
    ("content", "kind", "expected"),
    [
        (b"{", "application/json", 400),
        (b'{"role": "\xff"}', "application/json", 400),
        (b'{"role": "boss"}', "application/json", 422),
        (b'{"role": 1}', "application/json", 422),
        (b'{"expires_in": 0}', "application/json", 422),
        (b'{"expires_in": true}', "application/json", 422),
        (b'{"rule": "admin"}', "application/json", 422),
        (b"null", "application/json", 422),
        (b"[" * 1000, "application/json", 422),
        (b" " * 5000, "application/json", 413),
        (b"role=admin", "application/x-www-form-urlencoded", 415),
        (b"{}", "application/json; charset=utf-8", 200),
        (b"", "text/plain", 200),
    ],
)
def test_what_is_asked_of_a_token_is_checked(served: Api, content: bytes, kind: str, expected: int) -> None:
    given = {"Content-Type": kind}
    assert status(served, "POST", "/token", ADMIN, content=content, headers=given) == expected


def other_key() -> Any:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


@pytest.mark.parametrize(
    "forged",
    [
        lambda: signed(secret="another secret, just as long as the first"),
        lambda: signed(secret=None, algorithm="none"),
        lambda: signed(algorithm="HS512"),
        lambda: signed(algorithm="HS384"),
        lambda: signed(secret=other_key(), algorithm="RS256"),
        lambda: signed(iss="somebody-else"),
        lambda: signed(iss=None),
        lambda: signed(exp=None),
        lambda: signed(iat=None),
        lambda: signed(sub=None),
        lambda: signed(role=None),
        lambda: signed(role="boss"),
        lambda: signed(exp="never"),
        lambda: signed(aud="others"),
        lambda: signed().rpartition(".")[0] + ".",
        lambda: f"{base64.urlsafe_b64encode(b'[' * 3000).decode()}.e30.x",
        lambda: "not a token",
        lambda: "\xe9",
    ],
)
def test_a_token_that_was_not_signed_here_so_opens_nothing(served: Api, forged: Callable[[], str]) -> None:
    assert status(served, "GET", "/jobs", token=signed()) == 200, "the rest of it is right"
    given = {"Authorization": b"Bearer " + forged().encode("latin-1")}
    answer = ask(served, "GET", "/jobs", headers=given)
    assert answer.status_code == 401, answer.text
    assert "not one that this server has signed" in answer.json()["detail"]
    assert answer.headers["www-authenticate"].endswith('Bearer realm="llm-api"')


def test_a_token_with_another_role_written_into_it_opens_nothing(served: Api) -> None:
    head, body, signature = token_of(served, READER).split(".")
    claims = json.loads(base64.urlsafe_b64decode(body + "=="))
    assert claims["role"] == "readonly"
    claims.update(role="admin", sub="admin")
    body = base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
    assert status(served, "GET", "/audit", token=f"{head}.{body}.{signature}") == 401


def test_a_token_ends(served: Api) -> None:
    token = token_of(served, ADMIN, expires_in=100)
    longest = token_of(served, ADMIN)
    served.clock.at += 104
    assert status(served, "GET", "/jobs", token=token) == 200, "clocks may differ a little"
    served.clock.at += 2
    assert "expired" in ask(served, "GET", "/jobs", token=token).json()["detail"]
    assert status(served, "GET", "/jobs", token=longest) == 200
    far = signed(exp=int(NOW) + 10 * SECONDS)
    served.clock.at += SECONDS
    assert status(served, "GET", "/jobs", token=far) == 401, "none is good for longer than jwt_expiration"


@pytest.mark.parametrize("claim", ["iat", "nbf"])
def test_a_token_does_not_begin_before_its_time(served: Api, claim: str) -> None:
    assert status(served, "GET", "/jobs", token=signed(**{claim: int(NOW) + 30})) == 401
    assert status(served, "GET", "/jobs", token=signed(**{claim: int(NOW) + 3})) == 200


def test_a_token_ends_with_its_key(served: Api) -> None:
    key = made_key(served, "ci", Role.OPERATOR)
    token = token_of(served, key)
    assert status(served, "GET", "/jobs", token=token) == 200
    revoked(served, "ci")
    assert "not valid any more" in ask(served, "GET", "/jobs", token=token).json()["detail"]
    made_key(served, "ci", Role.ADMIN)
    assert status(served, "GET", "/jobs", token=token) == 401, "another key of the same name made others"
    assert status(served, "GET", "/jobs", token=signed(sub="nobody")) == 401


def test_a_token_may_not_do_more_than_its_key_does_now(served: Api) -> None:
    key = made_key(served, "ci", Role.OPERATOR)
    token = token_of(served, key)
    low = token_of(served, key, role="submitter")
    path = Path(served.config.security.api_keys_file)
    path.write_text(path.read_text().replace("operator", "submitter"))
    served.clock.at += 1.1
    assert status(served, "GET", "/jobs", token=token) == 401
    assert status(served, "GET", "/jobs", token=low) == 200
    assert status(served, "GET", "/jobs", token=signed(sub="readonly")) == 401


def test_a_token_ends_when_its_key_does(served: Api) -> None:
    key = made_key(served, "ci", expires_at=served.clock.at + 100)
    token = token_of(served, key)
    served.clock.at += 100
    assert status(served, "GET", "/jobs", token=token) == 401


def test_with_tokens_alone_a_key_is_for_making_one(make_api: Callable[..., Api]) -> None:
    served = make_api(api_key_enabled=False)
    answer = ask(served, "GET", "/jobs", ADMIN)
    assert answer.status_code == 401
    assert "/token" in answer.json()["detail"]
    assert answer.headers["www-authenticate"] == 'Bearer realm="llm-api"'
    assert status(served, "GET", "/jobs") == 401
    assert status(served, "GET", "/audit", token=token_of(served, ADMIN)) == 200
    assert status(served, "POST", "/token", "wrong") == 401


def test_without_tokens_none_is_made_and_none_is_taken(make_api: Callable[..., Api]) -> None:
    served = make_api(jwt_enabled=False)
    answer = ask(served, "POST", "/token", ADMIN)
    assert answer.status_code == 409
    assert "jwt_enabled" in answer.json()["detail"]
    assert status(served, "GET", "/jobs", token=signed()) == 401


def test_without_keys_and_tokens_this_machine_may_do_all(make_api: Callable[..., Api]) -> None:
    served = make_api(api_key_enabled=False, jwt_enabled=False)
    assert status(served, "POST", "/token") == 409
    assert status(served, "POST", "/jobs", json=[1]) == 202
    answer = served.http.get("/audit").json()
    assert [(call["who"], call["how"], call["status"]) for call in answer["calls"]] == [
        ("local", "local", 202),
        ("local", "local", 409),
    ]


# Without a key


def test_pages_are_open_and_what_they_show_is_not(served: Api) -> None:
    for path in ("/health", "/", "/dashboard.js", "/dashboard.css", "/docs", "/docs/start.js", "/docs/swagger.js"):
        assert status(served, "GET", path) == 200, path
        assert status(served, "HEAD", path) in (200, 405), path
        assert status(served, "POST", path) == 401, path
    for path in ("/openapi.json", "/jobs", f"/jobs/{SOME_ID}", "/queues", "/audit", "/nothing", "/health/", "/docsx"):
        answer = ask(served, "GET", path)
        assert (answer.status_code, answer.headers["content-type"]) == (401, PROBLEM), path
        assert answer.headers["www-authenticate"] == 'ApiKey header="X-API-Key", Bearer realm="llm-api"'


def test_no_other_site_is_let_in(served: Api) -> None:
    asked = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
    for method in ("OPTIONS", "GET", "POST"):
        for key in (None, ADMIN):
            answer = ask(served, method, "/jobs", key, headers=asked)
            assert not [name for name in answer.headers if name.startswith("access-control")], method
    assert status(served, "OPTIONS", "/jobs", ADMIN) == 405


# Failed attempts


def test_who_guesses_is_slowed_down_and_who_knows_is_not(served: Api) -> None:
    key = made_key(served, "ci")
    tried = [ask(served, "GET", "/jobs", f"wrong-{number}") for number in range(ATTEMPTS + 5)]
    assert [answer.status_code for answer in tried] == [401] * ATTEMPTS + [429] * 5
    assert tried[-1].headers["content-type"] == PROBLEM
    assert 1 <= int(tried[-1].headers["retry-after"]) <= 60
    assert status(served, "GET", "/jobs", token="forged") == 429
    for right in (key, ADMIN, READER):
        assert status(served, "GET", "/jobs", right) == 200
    assert status(served, "GET", "/jobs", token=token_of(served, key)) == 200
    assert status(served, "GET", "/health") == 200
    other = {"X-Forwarded-For": "192.0.2.7"}  # from 127.0.0.1 the server believes it
    assert status(served, "GET", "/jobs", "wrong", headers=other) == 401


def test_a_key_that_may_be_short_waits_like_a_wrong_one(make_api: Callable[..., Api]) -> None:
    hashed = f"sha256:{hashlib.sha256(b'short, for all one knows').hexdigest()}"
    served = make_api(api_keys={"admin": "short", "readonly": hashed})
    assert status(served, "GET", "/jobs", "short") == 200
    for number in range(ATTEMPTS):
        assert status(served, "GET", "/jobs", f"wrong-{number}") == 401
    for given in ("short", "short, for all one knows", "wrong"):
        assert ask(served, "GET", "/jobs", given).json() == ask(served, "GET", "/jobs", "wrong").json()
    assert status(served, "GET", "/jobs", "short", headers={"X-Forwarded-For": "192.0.2.7"}) == 200


def test_what_is_no_guess_is_not_counted(served: Api) -> None:
    token = token_of(served, ADMIN, expires_in=1)
    served.clock.at += 60
    for _ in range(ATTEMPTS + 1):
        assert status(served, "GET", "/jobs") == 401
        assert status(served, "POST", "/jobs", json=[1]) == 401
        assert status(served, "GET", "/jobs", token=token) == 401
        assert status(served, "GET", "/audit", READER) == 403
    assert status(served, "GET", "/jobs", "wrong") == 401


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("2001:db8:1:2:3::4", "2001:db8:1:2:ffff::1", True),
        ("2001:db8:1:2::1", "2001:db8:1:3::1", False),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("192.0.2.1", "192.0.2.2", False),
        ("fe80::1%eth0", "fe80::2%eth1", True),
        ("not an address", "neither is this", False),
        ("", "", True),
    ],
)
def test_addresses_of_one_network_count_as_one(one: str, other: str, same: bool) -> None:
    failures = FailedAttempts()
    for _ in range(ATTEMPTS):
        assert failures.add(one)
    assert failures.add(other) is not same
    assert (failures.blocked_seconds(other) > 0) is same


# The record


def test_the_record_says_who_did_what_from_where_and_how_it_ended(
    served: Api, caplog: pytest.LogCaptureFixture
) -> None:
    key = made_key(served, "ci", Role.SUBMITTER)
    at = served.clock.at
    assert status(served, "POST", "/jobs?x=1", key, json=[1]) == 422
    assert status(served, "POST", "/jobs", key, json=["private"], headers={"X-Forwarded-For": "192.0.2.7"}) == 202
    assert status(served, "POST", "/token", key, json={"expires_in": 60}) == 200
    assert status(served, "GET", "/jobs", key) == 200
    token, accepted, refused = recorded(served)
    assert token["facts"] == {"role": "submitter", "expires_in": 60}
    assert accepted["address"] == "192.0.2.7"
    assert accepted["id"] > refused["id"]
    shown = {"who": "ci", "role": "submitter", "how": "key", "method": "POST", "path": "/jobs", "status": 422}
    assert {name: refused[name] for name in shown} == shown
    assert refused["address"] == "127.0.0.1"
    assert refused["seconds"] == 0
    assert refused["at"] == rfc3339(at)
    lines = [each for each in caplog.records if each.name == "llm.audit"]
    assert [(each.levelname, each.who, each.path, each.status) for each in lines] == [  # type: ignore[attr-defined]
        ("INFO", "ci", "/jobs", 422),
        ("INFO", "ci", "/jobs", 202),
        ("INFO", "ci", "/token", 200),
    ]


def test_nothing_that_is_recorded_or_logged_is_secret(
    served: Api, redis: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    key = made_key(served, "ci", Role.ADMIN)
    token = token_of(served, key)
    wrong = f"{key[:-4]}hush"
    for given in ({"key": key}, {"token": token}, {"key": wrong}, {"token": f"{token[:-4]}hush"}, {"key": "hush"}):
        ask(served, "POST", "/jobs?key=hush-query", json=["hush-body"], **given)
        ask(served, "POST", "/token?x=hush-query", json={"role": "hush-body"}, **given)
    calls = recorded(served)
    assert {call["status"] for call in calls} >= {401, 422}
    lines = [vars(each) for each in caplog.records if each.name.startswith("llm")]
    assert lines
    kept = repr(redis.xrange(STREAM)) + repr(lines)
    kept += repr(served.config) + repr(read_keys(served.config.security.api_keys_file)) + repr(served.config.security)
    for secret in (key[13:], token, token.rpartition(".")[2], "hush", ADMIN, READER, SECRET):
        assert secret not in kept, kept[max(0, kept.find(secret) - 200) : kept.find(secret) + 200]
    assert [call["facts"]["key"] for call in calls if "key" in call["facts"]] == [key[:12]] * 2


def test_the_record_is_asked_by_who_method_and_status_and_in_pages(served: Api) -> None:
    key = made_key(served, "ci", Role.SUBMITTER)
    for number in range(7):
        assert status(served, "POST", "/jobs", key, json=[number]) == 202
        assert status(served, "POST", "/jobs", ADMIN, json=[number]) == 202
    assert status(served, "POST", "/nothing", key) == 404
    assert status(served, "DELETE", "/jobs", key) == 405
    assert len(recorded(served, who="ci")) == 9
    assert [call["path"] for call in recorded(served, status=404)] == ["/nothing"]
    assert [call["status"] for call in recorded(served, method="DELETE")] == [405]
    assert recorded(served, who="nobody") == []
    for query in ({}, {"who": "ci"}):
        seen: list[str] = []
        cursor = None
        for _ in range(20):
            asked = {**query, "limit": 4, **({"cursor": cursor} if cursor else {})}
            found = ask(served, "GET", "/audit", ADMIN, params=asked).json()
            assert len(found["calls"]) <= 4
            seen += [call["id"] for call in found["calls"]]
            cursor = found["cursor"]
            if cursor is None:
                break
        assert len(seen) == len(set(seen)) == (9 if query else 16)
        assert seen == [call["id"] for call in recorded(served, limit=500, **query)]
    for wrong in (
        {"cursor": "x"},
        {"cursor": "1-1\n"},
        {"limit": 0},
        {"limit": 501},
        {"status": 99},
        {"method": "get"},
    ):
        assert status(served, "GET", "/audit", ADMIN, params=wrong) == 422, wrong


def test_a_question_that_fits_nothing_ends(served: Api, redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit_log, "_AT_ONCE", 10)
    monkeypatch.setattr(audit_log, "_MAX_SCANNED", 50)
    pipeline = redis.pipeline()
    for _ in range(120):
        pipeline.xadd(STREAM, {"strange": "entry"})
    pipeline.execute()
    asked: dict[str, Any] = {"who": "nobody"}
    for expected in (True, True, False):
        found = ask(served, "GET", "/audit", ADMIN, params=asked).json()
        assert found["calls"] == []
        assert bool(found["cursor"]) is expected
        asked["cursor"] = found["cursor"]


def test_who_tries_again_and_again_cannot_fill_the_record(served: Api) -> None:
    assert status(served, "POST", "/jobs", ADMIN, json=[1]) == 202
    for number in range(20):
        status(served, "GET", "/jobs", f"wrong-{number}")
        status(served, "POST", "/jobs", json=[1])
        status(served, "POST", "/nothing", READER)
    calls = recorded(served, limit=500)
    assert calls[-1]["status"] == 202
    assert len(calls) == 1 + ATTEMPTS + 1
    for number in range(60):
        status(served, "POST", "/jobs", "wrong", headers={"X-Forwarded-For": f"192.0.2.{number}"})
    assert len(recorded(served, limit=500)) == 1 + 60, "from however many addresses"


def test_a_failed_login_stands_in_the_record(served: Api) -> None:
    for number in range(ATTEMPTS + 3):
        status(served, "GET", "/jobs", f"wrong-{number}")
    calls = recorded(served)
    assert [call["status"] for call in calls] == [429] + [401] * ATTEMPTS
    assert calls[-1]["who"] is calls[-1]["role"] is calls[-1]["how"] is None
    assert "not one that this server knows" in calls[-1]["facts"]["reason"]


def test_a_page_that_asks_without_a_key_is_not_in_the_record(served: Api) -> None:
    for _ in range(3):
        assert status(served, "GET", "/jobs") == 401
    assert recorded(served) == []
    assert status(served, "POST", "/jobs", json=[1]) == 401
    assert [call["status"] for call in recorded(served)] == [401]


def test_a_readers_look_at_the_record_is_refused_and_recorded(served: Api) -> None:
    assert status(served, "GET", "/audit", READER) == 403
    assert [(call["who"], call["method"], call["status"]) for call in recorded(served)] == [("readonly", "GET", 403)]


def test_a_call_that_ends_in_a_bug_is_recorded(served: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: Any, **options: Any) -> Any:
        raise ZeroDivisionError

    monkeypatch.setattr("llm_scheduler.api.endpoints.token._granted", broken)
    assert status(served, "POST", "/token", ADMIN, headers={"Connection": "close"}) == 500
    assert [call["status"] for call in recorded(served)] == [500]


def test_what_waits_is_written_at_the_end(make_api: Callable[..., Api], redis: Redis) -> None:
    served = make_api()
    assert status(served, "POST", "/jobs", ADMIN, json=[1]) == 202
    served.server.should_exit = True
    served.thread.join()
    assert redis.xlen(STREAM) == 1


def test_what_waits_is_written_soon_without_being_asked_for(served: Api, redis: Redis) -> None:
    assert status(served, "POST", "/jobs", ADMIN, json=[1]) == 202
    wait_until(lambda: redis.xlen(STREAM) == 1, "an entry in the record")


def call(number: int = 0) -> Call:
    parts: dict[str, Any] = {"at": "", "who": "ci", "role": Role.ADMIN, "how": "key", "address": "", "method": "POST"}
    return Call(**parts, path=f"/{number}", status=200, seconds=0, facts={})


class Stuck:
    """A Redis that answers when it is told to."""

    connection_pool = None

    def __init__(self) -> None:
        self.released = threading.Event()
        self.groups: list[int] = []
        self._group = 0

    def pipeline(self, transaction: bool) -> "Stuck":
        self._group = 0
        return self

    def xadd(self, *arguments: Any, **options: Any) -> None:
        self._group += 1

    def execute(self) -> None:
        assert self.released.wait(60)
        self.groups.append(self._group)


def test_no_call_waits_for_the_record() -> None:
    stuck = Stuck()
    record = AuditLog(stuck)  # type: ignore[arg-type]
    try:
        for number in range(1000):
            record.record(call(number))
        assert stuck.groups == [], "all were taken before Redis took one"
    finally:
        stuck.released.set()
        record.close()
    assert sum(stuck.groups) == 1000
    assert len(stuck.groups) <= 4, "many go together"


def test_the_record_is_in_the_log_while_redis_is_away(
    make_api: Callable[..., Api], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    served = make_api(f"unix://{tmp_path}/nothing")
    for _ in range(3):
        assert status(served, "POST", "/jobs", ADMIN, json=[1]) == 202
    wait_until(lambda: "GET /audit will lack calls" in caplog.text, "a word that the record is in the log only")
    assert [each.status for each in caplog.records if hasattr(each, "how")] == [202] * 3
    assert status(served, "GET", "/audit", ADMIN) == 503
    assert caplog.text.count("GET /audit will lack calls") == 1


def test_the_stream_is_bounded(redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit_log, "KEPT", 100)
    record = AuditLog(redis)
    for number in range(1000):
        record.record(call(number))
    record.close()
    assert redis.xlen(STREAM) <= 300  # by whole nodes of the stream
    newest = audit_log.read_calls(redis, who=None, method=None, status=None, limit=1, cursor=None).calls[0][1]
    assert newest == call(999)


def test_the_record_of_a_call_is_there_before_its_answer(served: Api) -> None:
    for number in range(1, 20):
        assert status(served, "POST", "/jobs", ADMIN, json=[number]) == 202
        assert len(recorded(served)) == number


# The configuration


@pytest.mark.parametrize(
    ("security", "key"),
    [
        ({"jwt_enabled": True}, "security.jwt_secret"),
        ({"jwt_enabled": True, "jwt_secret": "hush" * 7 + "123"}, "security.jwt_secret"),
        ({"jwt_enabled": True, "jwt_secret": "-----BEGIN PRIVATE KEY-----\nhush"}, "security.jwt_secret"),
        ({"api_keys": {"admin": "sha256:hush"}}, "security.api_keys.admin"),
        ({"api_keys": {"readonly": f"sha256:{'A' * 64}"}}, "security.api_keys.readonly"),
        ({"api_keys_file": "a\0b"}, "security.api_keys_file"),
        ({"api_keys_file": ""}, "security.api_keys_file"),
    ],
)
def test_keys_and_secrets_that_cannot_be(tmp_path: Path, security: dict[str, Any], key: str) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"security": security}))
    with pytest.raises(ConfigError) as caught:
        load(path, {})
    assert [problem.key for problem in caught.value.problems] == [key]
    assert "hush" not in str(caught.value)


def test_a_short_secret_that_signs_nothing_is_no_matter(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"security": {"jwt_secret": "short"}}))
    assert load(path, {}).security.jwt_secret == "short"


# The command line


def llmctl(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    environ = {name: value for name, value in os.environ.items() if not name.startswith("LLM_")}
    return subprocess.run([LLMCTL, *arguments], cwd=folder, env=environ, capture_output=True, text=True, check=False)


def test_keys_are_made_listed_and_revoked_on_the_command_line(tmp_path: Path) -> None:
    made = llmctl(tmp_path, "key", "create", "ci", "--role", "submitter", "--expires-in", "90d")
    assert made.returncode == 0, made.stderr
    text = made.stdout.strip()
    assert api_keys._FORM.fullmatch(text.encode()), "the key and nothing else is on stdout"
    assert text not in made.stderr
    as_json = json.loads(llmctl(tmp_path, "key", "create", "ops", "--role", "admin", "--json").stdout)
    assert api_keys._FORM.fullmatch(as_json["key"].encode())
    ci, ops = read_keys(str(tmp_path / "data" / "api_keys.json"))
    assert (ci.name, ci.role, ops.name, ops.role) == ("ci", Role.SUBMITTER, "ops", Role.ADMIN)
    assert ci.sha256 == hashlib.sha256(text[13:].encode()).hexdigest()
    assert ci.expires_at is not None
    assert (ci.expires_at - ci.created_at).total_seconds() == 90 * 86_400
    for arguments in (("key", "list"), ("key", "list", "--json"), ("config", "show")):
        listed = llmctl(tmp_path, *arguments)
        assert listed.returncode == 0
        assert text[13:] not in listed.stdout
        assert ci.sha256 not in listed.stdout
    assert [key["prefix"] for key in json.loads(llmctl(tmp_path, "key", "list", "--json").stdout)["keys"]] == [
        text[:12],
        as_json["key"][:12],
    ]
    assert llmctl(tmp_path, "key", "revoke", "ci").returncode == 0
    assert [key.name for key in read_keys(str(tmp_path / "data" / "api_keys.json"))] == ["ops"]


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("create", "ci", "--role", "submitter"), 1),
        (("create", "admin", "--role", "admin"), 1),
        (("revoke", "nobody"), 1),
        (("create", "a b", "--role", "admin"), 2),
        (("create", "x", "--role", "boss"), 2),
        (("create", "x"), 2),
        (("create", "x", "--role", "admin", "--expires-in", "soon"), 2),
        (("create", "x", "--role", "admin", "--expires-in", "0d"), 2),
    ],
)
def test_what_cannot_be_done_with_keys_says_so(tmp_path: Path, arguments: tuple[str, ...], code: int) -> None:
    path = tmp_path / "data" / "api_keys.json"
    create_key(str(path), "ci", Role.READONLY, 1e9)
    before = path.read_bytes()
    ended = llmctl(tmp_path, "key", *arguments)
    assert (ended.returncode, ended.stdout) == (code, ""), ended.stderr
    assert ended.stderr
    assert path.read_bytes() == before


def test_a_broken_file_of_keys_is_not_written_over(tmp_path: Path) -> None:
    path = tmp_path / "data" / "api_keys.json"
    path.parent.mkdir()
    path.write_text("{")
    for arguments in (("create", "x", "--role", "admin"), ("revoke", "x"), ("list",)):
        assert llmctl(tmp_path, "key", *arguments).returncode == 78
    assert path.read_text() == "{"


@pytest.mark.slow
def test_a_running_api_hears_of_keys_by_itself(tmp_path: Path, redis_server: Server) -> None:
    folder = tmp_path / "spool"
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    security = {"api_key_enabled": True, "api_keys": {"admin": ADMIN}, "api_keys_file": "keys.json"}
    configuration(folder, redis_server.url, api={"port": port, "workers": 2}, security=security)
    with (folder / "api.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", "from llm_scheduler.api.server import main; main()", "--config", "config.json"],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": os.getcwd()},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=log,
        )

    def answered(key: str) -> int:
        try:
            return httpx.get(f"http://127.0.0.1:{port}/jobs", headers={"X-API-Key": key}, timeout=10).status_code
        except httpx.TransportError:
            assert process.poll() is None, (folder / "api.log").read_text()
            return 0

    try:
        wait_until(lambda: answered(ADMIN) == 200, "an API that answers")
        key = llmctl(folder, "--config", "config.json", "key", "create", "ci", "--role", "readonly").stdout.strip()
        # Each of the two processes has to have heard of it.
        wait_until(lambda: {answered(key) for _ in range(10)} == {200}, "a key that counts", deadline=5, every=0.3)
        assert llmctl(folder, "--config", "config.json", "key", "revoke", "ci").returncode == 0
        wait_until(
            lambda: 200 not in {answered(key) for _ in range(10)}, "a key that is revoked", deadline=5, every=0.3
        )
    finally:
        process.terminate()
        process.wait(20)
    assert key[13:] not in (folder / "api.log").read_text()
