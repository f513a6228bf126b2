"""A language model behind an OpenAI-compatible endpoint on this machine, well behaved and not."""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from daag_jax.agent.llm import EndpointConfig, LanguageModelOrchestrator, ReplayOrchestrator
from daag_jax.agent.orchestrator import grasping, on_top

pytest.importorskip("openai")
GOOD = '{"possible": true, "swaps": [["green object", "red"]], "reason": "same relation"}'
SECRET = "sk-very-secret"


class Endpoint(ThreadingHTTPServer):
    """Answers with the next of ``replies``: a text, a status code, a pause [s], or the bytes of a whole body."""

    def __init__(self, replies):
        self.replies, self.asked = list(replies), 0
        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.server.asked += 1
        reply = (
            self.server.replies.pop(0) if len(self.server.replies) > 1 else self.server.replies[0]
        )
        if isinstance(reply, float):
            time.sleep(reply)
            reply = GOOD
        body = {"choices": [{"index": 0, "message": {"role": "assistant", "content": reply}}]}
        self.send_response(reply if isinstance(reply, int) else 200)
        is_page = isinstance(reply, bytes) and reply.startswith(b"<html>page")
        self.send_header("Content-Type", "text/html" if is_page else "application/json")
        self.end_headers()
        self.wfile.write(reply if isinstance(reply, bytes) else json.dumps(body).encode())

    def log_message(self, *args):
        pass


@pytest.fixture
def model(monkeypatch, tmp_path):
    servers = []

    def start(*replies, **config):
        server = Endpoint(replies)
        servers.append(server)
        monkeypatch.setenv("OPENAI_API_KEY", SECRET)
        url = f"http://127.0.0.1:{server.server_address[1]}/v1"
        path = str(tmp_path / "transcript.jsonl")
        settings = EndpointConfig("test", base_url=url, transcript=path, **config)
        return LanguageModelOrchestrator(settings), server, path

    yield start
    for server in servers:
        server.shutdown()


def test_a_good_reply_is_a_decision_and_is_asked_for_once(model):
    orchestrator, server, _ = model(GOOD)
    for _ in range(3):
        decision = orchestrator.can_swap(grasping("green"), grasping("red"))
        assert decision.possible and decision.swaps == (("green", "red"),)
    assert server.asked == 1


@pytest.mark.parametrize(
    ("reply", "outcome"),
    [
        ("I think so!", "not JSON"),
        ('{"possible": "perhaps", "swaps": 3}', "malformed"),
        ('{"possible": true, "swaps": [["green", "mauve"]]}', "malformed"),
        ('{"possible": true, "swaps": [["green", "red"], ["green", "blue"]]}', "malformed"),
        (500, "no reply"),
        (401, "no reply: AuthenticationError"),
        (None, "no reply: empty"),
        (b"<html>page", "no reply: not of this protocol"),
        (b"<html>busy", "no reply: not of this protocol"),
        (b'{"choices": null}', "no reply: not of this protocol"),
        (b'{"choices": [{"index": 0}]}', "no reply: not of this protocol"),
        (b"[1, 2]", "no reply: not of this protocol"),
    ],
)
def test_a_bad_reply_is_counted_retried_and_refused(model, reply, outcome):
    orchestrator, server, _ = model(reply, attempts=2)
    decision = orchestrator.can_swap(grasping("green"), grasping("red"))
    assert not decision.possible and server.asked == 2
    assert sum(n for name, n in orchestrator.counts.items() if name.startswith(outcome)) == 2


def test_a_bad_reply_may_be_followed_by_a_good_one(model):
    orchestrator, _, _ = model("no", GOOD)
    assert orchestrator.can_swap(grasping("green"), grasping("red")).possible
    assert orchestrator.counts["not JSON"] == orchestrator.counts["answered"] == 1


def test_silence_is_a_counted_outcome(model):
    orchestrator, _, _ = model(2.0, timeout=0.3, attempts=1)
    assert not orchestrator.can_swap(grasping("green"), grasping("red")).possible
    assert orchestrator.counts["no reply: APITimeoutError"] == 1


@pytest.mark.parametrize(
    ("said", "goals"),
    [
        ('["the robot is grasping the Red object."]', (grasping("red"),)),
        ('["Juggle the red object"]', ()),
        ('["The robot is grasping the mauve object"]', ()),
        ("[]", ()),
    ],
)
def test_sub_goals_are_captions_or_malformed(model, said, goals):
    orchestrator, _, _ = model(f'{{"subgoals": {said}}}', attempts=1)
    assert orchestrator.decompose("Grasp the red object") == goals
    assert orchestrator.counts["answered"] == bool(goals) and orchestrator.counts.total() == 1


def test_a_continued_run_asks_nothing_twice_but_what_got_no_reply(model):
    first, server, path = model(GOOD, "no", "no", "no", 500)
    questions = [(grasping("green"), grasping(color)) for color in ("red", "blue", "pink")]
    decisions = [first.can_swap(*question) for question in questions]
    assert [d.possible for d in decisions] == [True, False, False] and server.asked == 7
    with open(path, "a") as file:
        file.write('{"question": "cut of')  # killed while it wrote
    second, server, _ = model(GOOD)
    assert [second.can_swap(*question) for question in questions[:2]] == decisions[:2]
    assert server.asked == 0 and second.counts == first.counts
    assert second.can_swap(*questions[2]).possible and server.asked == 1
    assert ReplayOrchestrator(path).can_swap(*questions[2]).possible


def test_a_transcript_of_another_model_is_not_continued(model):
    orchestrator, _, path = model(GOOD)
    orchestrator.can_swap(grasping("green"), grasping("red"))
    with pytest.raises(ValueError, match="is of model 'test', not 'other'"):
        LanguageModelOrchestrator(EndpointConfig("other", transcript=path))


def test_a_transcript_repeats_the_run_and_holds_no_key(model):
    subgoals = json.dumps({"subgoals": [grasping("red"), on_top("red", "blue")]})
    orchestrator, _, path = model("no", GOOD, subgoals)
    first = orchestrator.can_swap(grasping("green"), grasping("red"))
    goals = orchestrator.decompose("Stack the red object on top of the blue object")
    replay = ReplayOrchestrator(path)
    assert replay.can_swap(grasping("green"), grasping("red")) == first
    assert replay.decompose("Stack the red object on top of the blue object") == goals
    assert SECRET not in Path(path).read_text() and '"no"' in Path(path).read_text()
    assert replay.counts == orchestrator.counts == {"not JSON": 1, "answered": 2}
    with pytest.raises(ValueError, match="record the run again"):
        replay.can_swap(grasping("pink"), grasping("red"))


def test_a_broken_transcript_is_refused_by_line(tmp_path):
    path = tmp_path / "t.jsonl"
    path.write_text('{"question": "a", "answer": null}\nnot json\n')
    with pytest.raises(ValueError, match="line 2"):
        ReplayOrchestrator(path)
