"""The bytes of every message, frozen: a change here is a change of the protocol.

Each has its JSON and its MessagePack (as hex). `minimal` sets only what has no default.
"""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec
import pytest
from msgspec import Raw

from fogactors.messages import (
    Beat,
    ClusterChange,
    Control,
    ControlReply,
    DeadLetter,
    DeadLetterFate,
    ErrorInfo,
    Event,
    LaneTotals,
    NodeMetrics,
    ProcessTotals,
    RpcReply,
    RpcRequest,
    Spread,
    Task,
    TaskResult,
    TierLoad,
)
from fogactors.wire import JSON, MSGPACK, decode, encode

AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
LATER = datetime(2026, 1, 2, 3, 4, 6, 250_000, tzinfo=UTC)
TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"

MESSAGES = {
    "task-minimal": Task(id="a-1", name="files.digest", created=AT),
    "task-full": Task(
        id="a-1",
        name="files.digest",
        args=Raw(b'{"path":"/x"}'),
        priority="high",
        tier="heavy",
        cpu=0.5,
        memory_mb=512,
        attempt=2,
        max_attempts=5,
        hops=3,
        generation=1,
        crashes=2,
        created=AT,
        not_before=LATER,
        deadline=LATER,
        time_limit=1.5,
        idempotency_key="k",
        correlation_id="c",
        causation_id="p",
        traceparent=TRACE,
        origin="tasks.high_priority.heavy",
        reply_to="reply.a",
    ),
    "task-of-a-queue": Task(
        id="a-1", name="paper", priority="high", level=7, created=AT, origin="work.research.tasks.high"
    ),
    "result-minimal": TaskResult(task_id="a-1", name="files.digest", state="succeeded", finished=AT),
    "result-full": TaskResult(
        task_id="a-1",
        name="files.digest",
        state="failed",
        generation=1,
        value=Raw(b'{"size":3}'),
        error=ErrorInfo(type="ValueError", message="no", traceback="tb"),
        attempts=2,
        worker="edge-1",
        created=AT,
        started=AT,
        finished=LATER,
        correlation_id="c",
        traceparent=TRACE,
    ),
    "event-minimal": Event(event_id="e-1", event_type="shop.order.paid", timestamp=AT, source="shop"),
    "event-full": Event(
        event_id="e-1",
        event_type="shop.order.paid",
        timestamp=LATER,
        source="shop",
        data=Raw(b'{"order":7}'),
        correlation_id="c",
        causation_id="p",
        traceparent=TRACE,
        attempt=2,
    ),
    "dead_letter-minimal": DeadLetter(id="d-1", reason="malformed", body=b"\x00\xff", first=AT, last=AT),
    "dead_letter-full": DeadLetter(
        id="d-1",
        reason="worker_lost",
        body=b"{}",
        content_type="application/msgpack",
        error=ErrorInfo(type="MemoryError"),
        task_id="a-1",
        name="files.digest",
        generation=1,
        revision=2,
        attempts=4,
        worker="edge-1",
        origin="tasks.normal",
        first=AT,
        last=LATER,
        correlation_id="c",
        traceparent=TRACE,
    ),
    "dead_letter_fate-minimal": DeadLetterFate(id="d-1", state="purged", at=AT),
    "dead_letter_fate-full": DeadLetterFate(
        id="d-1", generation=1, state="replayed", at=LATER, by="edge-1/dlq-reaper", replayed_as=3
    ),
    "beat-minimal": Beat(node="edge-1", role="executor", at=AT),
    "beat-full": Beat(
        node="edge-1",
        role="executor",
        at=LATER,
        lag_s=0.25,
        tier="medium",
        cpu=0.75,
        memory_mb=768,
        cpu_used=0.5,
        memory_used_mb=256,
        running=2,
    ),
    "metrics-minimal": NodeMetrics(node="edge-1", role="executor", at=AT, window_s=5.0),
    "metrics-full": NodeMetrics(
        node="edge-1",
        role="executor",
        at=LATER,
        window_s=5.0,
        cpu_percent=12.5,
        memory_used_mb=100,
        memory_total_mb=1000,
        load1=0.75,
        tiers=[TierLoad(tier="light", cpu=0.5, memory_mb=512)],
    ),
    "metrics-process": NodeMetrics(
        node="edge-1",
        role="dlq-reaper",
        at=AT,
        window_s=5.0,
        process=ProcessTotals(id=7, incarnation="b", seq=1),
    ),
    "process-minimal": ProcessTotals(id=7, incarnation="b", seq=1),
    "process-full": ProcessTotals(
        id=7,
        incarnation="b",
        seq=2,
        resident_mb=60,
        store_away=True,
        restarts=1,
        duplicates=2,
        dead_letters={"failed": 3},
        cluster={"alarm": 2},
        broker_exits=6,
        queues={"dlq": 4},
        bounds_s=[0.5],
        lanes=[LaneTotals(tier="light", priority="high", wait=Spread(counts=[0, 0]), run=Spread(counts=[0, 0]))],
    ),
    "lane-minimal": LaneTotals(tier="light", priority="high", wait=Spread(counts=[0]), run=Spread(counts=[0])),
    "lane-full": LaneTotals(
        tier="light",
        priority="low",
        started=1,
        ended={"succeeded": 2},
        retried=3,
        handed_back=4,
        crashed=5,
        wait=Spread(counts=[1], sum_s=0.5),
        run=Spread(counts=[2], sum_s=1.5),
    ),
    "spread-minimal": Spread(counts=[0, 1]),
    "spread-full": Spread(counts=[0, 1], sum_s=2.5),
    "control-minimal": Control(id="o-1", command="ping", at=AT),
    "control-full": Control(
        id="o-1",
        command="cancel",
        at=LATER,
        node="edge-1",
        role="executor",
        task_id="a-1",
        reply_to="reply.o",
        correlation_id="c",
    ),
    "control-reply-minimal": ControlReply(id="o-1", command="ping", node="edge-1", role="dlq-reaper", at=AT),
    "control-reply-full": ControlReply(
        id="o-1",
        command="where",
        node="edge-1",
        role="tier-executor-light",
        at=LATER,
        data=Raw(b'"running"'),
        error="no",
    ),
    "cluster-change-minimal": ClusterChange(what="quorum_lost", on=False, node="rabbit@a", seen_by="rabbit@b", at=AT),
    "cluster-change-full": ClusterChange(
        what="alarm", on=True, node="rabbit@a", seen_by="rabbit@b", at=LATER, detail="memory"
    ),
    "rpc_request-minimal": RpcRequest(id="r-1", service="math.rpc", created=AT, timeout_s=30.0, reply_to="reply.r"),
    "rpc_request-full": RpcRequest(
        id="r-1",
        service="math.rpc",
        args=Raw(b'{"a":5,"b":3}'),
        created=LATER,
        timeout_s=0.5,
        reply_to="reply.r",
        correlation_id="c",
        causation_id="p",
        traceparent=TRACE,
    ),
    "rpc_reply-minimal": RpcReply(id="r-1"),
    "rpc_reply-full": RpcReply(
        id="r-1",
        value=Raw(b'{"result":8}'),
        error=ErrorInfo(type="ValueError", message="no"),
        server="math.rpc",
        correlation_id="c",
        traceparent=TRACE,
    ),
    "error-minimal": ErrorInfo(type="ValueError"),
    "error-full": ErrorInfo(type="ValueError", message="no", traceback="tb"),
    "load-minimal": TierLoad(tier="light", cpu=0.5, memory_mb=512),
    "load-full": TierLoad(
        tier="light",
        cpu=0.5,
        memory_mb=512,
        cpu_used=0.25,
        memory_used_mb=64,
        running=1,
        waiting=2,
        started=3,
        succeeded=4,
        failed=5,
        wait_s=[0.5],
        run_s=[1.5, 2.5],
    ),
}

GOLDEN_JSON = {
    "task-minimal": b'{"schema":"task/1","id":"a-1","name":"files.digest","created":"2026-01-02T03:04:05Z"}',
    "task-full": (
        b'{"schema":"task/1","id":"a-1","name":"files.digest","args":{"path":"/x"},"priority":"high",'
        b'"tier":"heavy","cpu":0.5,"memory_mb":512,"attempt":2,"max_attempts":5,"hops":3,'
        b'"generation":1,"crashes":2,"created":"2026-01-02T03:04:05Z","not_before":"2026-01-02T03:04:06.250000Z",'
        b'"deadline":"2026-01-02T03:04:06.250000Z","time_limit":1.5,"idempotency_key":"k",'
        b'"correlation_id":"c","causation_id":"p",'
        b'"traceparent":"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",'
        b'"origin":"tasks.high_priority.heavy","reply_to":"reply.a"}'
    ),
    "task-of-a-queue": (
        b'{"schema":"task/1","id":"a-1","name":"paper","priority":"high","level":7,"created":"2026-01-02T03:04:05Z",'
        b'"origin":"work.research.tasks.high"}'
    ),
    "result-minimal": (
        b'{"schema":"result/1","task_id":"a-1","name":"files.digest","state":"succeeded",'
        b'"finished":"2026-01-02T03:04:05Z"}'
    ),
    "result-full": (
        b'{"schema":"result/1","task_id":"a-1","name":"files.digest","state":"failed","generation":1,'
        b'"value":{"size":3},"error":{"type":"ValueError","message":"no","traceback":"tb"},'
        b'"attempts":2,"worker":"edge-1","created":"2026-01-02T03:04:05Z",'
        b'"started":"2026-01-02T03:04:05Z","finished":"2026-01-02T03:04:06.250000Z",'
        b'"correlation_id":"c",'
        b'"traceparent":"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"}'
    ),
    "event-minimal": (
        b'{"schema":"event/1","event_id":"e-1","event_type":"shop.order.paid",'
        b'"timestamp":"2026-01-02T03:04:05Z","source":"shop"}'
    ),
    "event-full": (
        b'{"schema":"event/1","event_id":"e-1","event_type":"shop.order.paid",'
        b'"timestamp":"2026-01-02T03:04:06.250000Z","source":"shop","data":{"order":7},'
        b'"correlation_id":"c","causation_id":"p",'
        b'"traceparent":"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01","attempt":2}'
    ),
    "dead_letter-minimal": (
        b'{"schema":"dead_letter/1","id":"d-1","reason":"malformed","body":"AP8=",'
        b'"first":"2026-01-02T03:04:05Z","last":"2026-01-02T03:04:05Z"}'
    ),
    "dead_letter-full": (
        b'{"schema":"dead_letter/1","id":"d-1","reason":"worker_lost","body":"e30=",'
        b'"content_type":"application/msgpack","error":{"type":"MemoryError"},"task_id":"a-1",'
        b'"name":"files.digest","generation":1,"revision":2,"attempts":4,"worker":"edge-1",'
        b'"origin":"tasks.normal",'
        b'"first":"2026-01-02T03:04:05Z","last":"2026-01-02T03:04:06.250000Z","correlation_id":"c",'
        b'"traceparent":"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"}'
    ),
    "dead_letter_fate-minimal": (
        b'{"schema":"dead_letter_fate/1","id":"d-1","state":"purged","at":"2026-01-02T03:04:05Z"}'
    ),
    "dead_letter_fate-full": (
        b'{"schema":"dead_letter_fate/1","id":"d-1","generation":1,"state":"replayed",'
        b'"at":"2026-01-02T03:04:06.250000Z","by":"edge-1/dlq-reaper","replayed_as":3}'
    ),
    "beat-minimal": b'{"schema":"beat/1","node":"edge-1","role":"executor","at":"2026-01-02T03:04:05Z"}',
    "beat-full": (
        b'{"schema":"beat/1","node":"edge-1","role":"executor","at":"2026-01-02T03:04:06.250000Z",'
        b'"lag_s":0.25,"tier":"medium","cpu":0.75,"memory_mb":768,"cpu_used":0.5,"memory_used_mb":256,'
        b'"running":2}'
    ),
    "metrics-minimal": (
        b'{"schema":"metrics/1","node":"edge-1","role":"executor","at":"2026-01-02T03:04:05Z","window_s":5.0}'
    ),
    "metrics-full": (
        b'{"schema":"metrics/1","node":"edge-1","role":"executor","at":"2026-01-02T03:04:06.250000Z",'
        b'"window_s":5.0,"cpu_percent":12.5,"memory_used_mb":100,"memory_total_mb":1000,"load1":0.75,'
        b'"tiers":[{"tier":"light","cpu":0.5,"memory_mb":512}]}'
    ),
    "metrics-process": (
        b'{"schema":"metrics/1","node":"edge-1","role":"dlq-reaper","at":"2026-01-02T03:04:05Z","window_s"'
        b':5.0,"process":{"id":7,"incarnation":"b","seq":1}}'
    ),
    "process-minimal": (b'{"id":7,"incarnation":"b","seq":1}'),
    "process-full": (
        b'{"id":7,"incarnation":"b","seq":2,"resident_mb":60,"store_away":true,"restarts":1,"duplicates":2'
        b',"dead_letters":{"failed":3},"cluster":{"alarm":2},"broker_exits":6,"queues":{"dlq":4},"bounds_s'
        b'":[0.5],"lanes":[{"tier":"light","priority":"high","wait":{"counts":[0,0]},"run":{"counts":[0,0]'
        b"}}]}"
    ),
    "lane-minimal": (b'{"tier":"light","priority":"high","wait":{"counts":[0]},"run":{"counts":[0]}}'),
    "lane-full": (
        b'{"tier":"light","priority":"low","started":1,"ended":{"succeeded":2},"retried":3,"handed_back":4'
        b',"crashed":5,"wait":{"counts":[1],"sum_s":0.5},"run":{"counts":[2],"sum_s":1.5}}'
    ),
    "spread-minimal": (b'{"counts":[0,1]}'),
    "spread-full": (b'{"counts":[0,1],"sum_s":2.5}'),
    "control-minimal": b'{"schema":"control/1","id":"o-1","command":"ping","at":"2026-01-02T03:04:05Z"}',
    "control-full": (
        b'{"schema":"control/1","id":"o-1","command":"cancel","at":"2026-01-02T03:04:06.250000Z",'
        b'"node":"edge-1","role":"executor","task_id":"a-1","reply_to":"reply.o","correlation_id":"c"}'
    ),
    "control-reply-minimal": (
        b'{"schema":"control_reply/1","id":"o-1","command":"ping","node":"edge-1","role":"dlq-reaper","at"'
        b':"2026-01-02T03:04:05Z"}'
    ),
    "control-reply-full": (
        b'{"schema":"control_reply/1","id":"o-1","command":"where","node":"edge-1","role":"tier-executor-l'
        b'ight","at":"2026-01-02T03:04:06.250000Z","data":"running","error":"no"}'
    ),
    "cluster-change-minimal": (
        b'{"schema":"cluster_change/1","what":"quorum_lost","on":false,"node":"rabbit@a","seen_by":"rabbit@b",'
        b'"at":"2026-01-02T03:04:05Z"}'
    ),
    "cluster-change-full": (
        b'{"schema":"cluster_change/1","what":"alarm","on":true,"node":"rabbit@a","seen_by":"rabbit@b",'
        b'"at":"2026-01-02T03:04:06.250000Z","detail":"memory"}'
    ),
    "rpc_request-minimal": (
        b'{"schema":"rpc_request/1","id":"r-1","service":"math.rpc","created":"2026-01-02T03:04:05Z","timeo'
        b'ut_s":30.0,"reply_to":"reply.r"}'
    ),
    "rpc_request-full": (
        b'{"schema":"rpc_request/1","id":"r-1","service":"math.rpc","args":{"a":5,"b":3},"created":"2026-01'
        b'-02T03:04:06.250000Z","timeout_s":0.5,"reply_to":"reply.r","correlation_id":"c","causation_id":"p'
        b'","traceparent":"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"}'
    ),
    "rpc_reply-minimal": b'{"schema":"rpc_reply/1","id":"r-1"}',
    "rpc_reply-full": (
        b'{"schema":"rpc_reply/1","id":"r-1","value":{"result":8},"error":{"type":"ValueError","message":"n'
        b'o"},"server":"math.rpc","correlation_id":"c","traceparent":"00-4bf92f3577b34da6a3ce929d0e0e4736-0'
        b'0f067aa0ba902b7-01"}'
    ),
    "error-minimal": b'{"type":"ValueError"}',
    "error-full": b'{"type":"ValueError","message":"no","traceback":"tb"}',
    "load-minimal": b'{"tier":"light","cpu":0.5,"memory_mb":512}',
    "load-full": (
        b'{"tier":"light","cpu":0.5,"memory_mb":512,"cpu_used":0.25,"memory_used_mb":64,"running":1,'
        b'"waiting":2,"started":3,"succeeded":4,"failed":5,"wait_s":[0.5],"run_s":[1.5,2.5]}'
    ),
}

GOLDEN_MSGPACK = {
    "task-minimal": (
        "de0004a6736368656d61a67461736b2f31a26964a3612d31a46e616d65ac66696c65732e646967657374a76372656174"
        "6564d6ff695735a5"
    ),
    "task-full": (
        "de0017a6736368656d61a67461736b2f31a26964a3612d31a46e616d65ac66696c65732e646967657374a46172677381"
        "a470617468a22f78a87072696f72697479a468696768a474696572a56865617679a3637075cb3fe0000000000000a96d"
        "656d6f72795f6d62cd0200a7617474656d707402ac6d61785f617474656d70747305a4686f707303aa67656e65726174"
        "696f6e01a76372617368657302a763726561746564d6ff695735a5aa6e6f745f6265666f7265d7ff3b9aca00695735a6"
        "a8646561646c696e65d7ff3b9aca00695735a6aa74696d655f6c696d6974cb3ff8000000000000af6964656d706f7465"
        "6e63795f6b6579a16bae636f7272656c6174696f6e5f6964a163ac636175736174696f6e5f6964a170ab747261636570"
        "6172656e74d93730302d34626639326633353737623334646136613363653932396430653065343733362d3030663036"
        "37616130626139303262372d3031a66f726967696eb97461736b732e686967685f7072696f726974792e6865617679a8"
        "7265706c795f746fa77265706c792e61"
    ),
    "task-of-a-queue": (
        "de0007a6736368656d61a67461736b2f31a26964a3612d31a46e616d65a57061706572a87072696f72697479a468696768a56c65"
        "76656c07a763726561746564d6ff695735a5a66f726967696eb8776f726b2e72657365617263682e7461736b732e68696768"
    ),
    "result-minimal": (
        "85a6736368656d61a8726573756c742f31a77461736b5f6964a3612d31a46e616d65ac66696c65732e646967657374a5"
        "7374617465a9737563636565646564a866696e6973686564d6ff695735a5"
    ),
    "result-full": (
        "8ea6736368656d61a8726573756c742f31a77461736b5f6964a3612d31a46e616d65ac66696c65732e646967657374a5"
        "7374617465a66661696c6564aa67656e65726174696f6e01a576616c756581a473697a6503a56572726f7283a4747970"
        "65aa56616c75654572726f72a76d657373616765a26e6fa974726163656261636ba27462a8617474656d70747302a677"
        "6f726b6572a6656467652d31a763726561746564d6ff695735a5a773746172746564d6ff695735a5a866696e69736865"
        "64d7ff3b9aca00695735a6ae636f7272656c6174696f6e5f6964a163ab7472616365706172656e74d93730302d346266"
        "39326633353737623334646136613363653932396430653065343733362d303066303637616130626139303262372d30"
        "31"
    ),
    "event-minimal": (
        "85a6736368656d61a76576656e742f31a86576656e745f6964a3652d31aa6576656e745f74797065af73686f702e6f72"
        "6465722e70616964a974696d657374616d70d6ff695735a5a6736f75726365a473686f70"
    ),
    "event-full": (
        "8aa6736368656d61a76576656e742f31a86576656e745f6964a3652d31aa6576656e745f74797065af73686f702e6f72"
        "6465722e70616964a974696d657374616d70d7ff3b9aca00695735a6a6736f75726365a473686f70a46461746181a56f"
        "7264657207ae636f7272656c6174696f6e5f6964a163ac636175736174696f6e5f6964a170ab7472616365706172656e"
        "74d93730302d34626639326633353737623334646136613363653932396430653065343733362d303066303637616130"
        "626139303262372d3031a7617474656d707402"
    ),
    "dead_letter-minimal": (
        "de0006a6736368656d61ad646561645f6c65747465722f31a26964a3642d31a6726561736f6ea96d616c666f726d6564"
        "a4626f6479c40200ffa56669727374d6ff695735a5a46c617374d6ff695735a5"
    ),
    "dead_letter-full": (
        "de0011a6736368656d61ad646561645f6c65747465722f31a26964a3642d31a6726561736f6eab776f726b65725f6c6f"
        "7374a4626f6479c4027b7dac636f6e74656e745f74797065b36170706c69636174696f6e2f6d73677061636ba5657272"
        "6f7281a474797065ab4d656d6f72794572726f72a77461736b5f6964a3612d31a46e616d65ac66696c65732e64696765"
        "7374aa67656e65726174696f6e01a87265766973696f6e02a8617474656d70747304a6776f726b6572a6656467652d31"
        "a66f726967696eac7461736b732e6e6f726d616ca56669727374d6ff695735a5a46c617374d7ff3b9aca00695735a6ae"
        "636f7272656c6174696f6e5f6964a163ab7472616365706172656e74d93730302d346266393266333537376233346461"
        "36613363653932396430653065343733362d303066303637616130626139303262372d3031"
    ),
    "dead_letter_fate-minimal": (
        "84a6736368656d61b2646561645f6c65747465725f666174652f31a26964a3642d31a57374617465a6707572676564a2"
        "6174d6ff695735a5"
    ),
    "dead_letter_fate-full": (
        "87a6736368656d61b2646561645f6c65747465725f666174652f31a26964a3642d31aa67656e65726174696f6e01a573"
        "74617465a87265706c61796564a26174d7ff3b9aca00695735a6a26279b1656467652d312f646c712d726561706572"
        "ab7265706c617965645f617303"
    ),
    "beat-minimal": (
        "84a6736368656d61a6626561742f31a46e6f6465a6656467652d31a4726f6c65a86578656375746f72a26174d6ff695735a5"
    ),
    "beat-full": (
        "8ba6736368656d61a6626561742f31a46e6f6465a6656467652d31a4726f6c65a86578656375746f72a26174d7ff3b9a"
        "ca00695735a6a56c61675f73cb3fd0000000000000a474696572a66d656469756da3637075cb3fe8000000000000a96d"
        "656d6f72795f6d62cd0300a86370755f75736564cb3fe0000000000000ae6d656d6f72795f757365645f6d62cd0100a7"
        "72756e6e696e6702"
    ),
    "metrics-minimal": (
        "85a6736368656d61a96d6574726963732f31a46e6f6465a6656467652d31a4726f6c65a86578656375746f72a26174d6"
        "ff695735a5a877696e646f775f73cb4014000000000000"
    ),
    "metrics-full": (
        "8aa6736368656d61a96d6574726963732f31a46e6f6465a6656467652d31a4726f6c65a86578656375746f72a26174d7"
        "ff3b9aca00695735a6a877696e646f775f73cb4014000000000000ab6370755f70657263656e74cb4029000000000000"
        "ae6d656d6f72795f757365645f6d6264af6d656d6f72795f746f74616c5f6d62cd03e8a56c6f616431cb3fe800000000"
        "0000a574696572739183a474696572a56c69676874a3637075cb3fe0000000000000a96d656d6f72795f6d62cd0200"
    ),
    "metrics-process": (
        "86a6736368656d61a96d6574726963732f31a46e6f6465a6656467652d31a4726f6c65aa646c712d726561706572a261"
        "74d6ff695735a5a877696e646f775f73cb4014000000000000a770726f6365737383a2696407ab696e6361726e617469"
        "6f6ea162a373657101"
    ),
    "process-minimal": ("83a2696407ab696e6361726e6174696f6ea162a373657101"),
    "process-full": (
        "8da2696407ab696e6361726e6174696f6ea162a373657102ab7265736964656e745f6d623caa73746f72655f61776179"
        "c3a8726573746172747301aa6475706c69636174657302ac646561645f6c65747465727381a66661696c656403a7636c"
        "757374657281a5616c61726d02ac62726f6b65725f657869747306a671756575657381a3646c7104a8626f756e64735f"
        "7391cb3fe0000000000000a56c616e65739184a474696572a56c69676874a87072696f72697479a468696768a4776169"
        "7481a6636f756e7473920000a372756e81a6636f756e7473920000"
    ),
    "lane-minimal": (
        "84a474696572a56c69676874a87072696f72697479a468696768a47761697481a6636f756e74739100a372756e81a6636f756e74739100"
    ),
    "lane-full": (
        "89a474696572a56c69676874a87072696f72697479a36c6f77a77374617274656401a5656e64656481a9737563636565"
        "64656402a77265747269656403ab68616e6465645f6261636b04a76372617368656405a47761697482a6636f756e7473"
        "9101a573756d5f73cb3fe0000000000000a372756e82a6636f756e74739102a573756d5f73cb3ff8000000000000"
    ),
    "spread-minimal": ("81a6636f756e7473920001"),
    "spread-full": ("82a6636f756e7473920001a573756d5f73cb4004000000000000"),
    "control-minimal": "84a6736368656d61a9636f6e74726f6c2f31a26964a36f2d31a7636f6d6d616e64a470696e67a26174d6ff695735a5",
    "control-full": (
        "89a6736368656d61a9636f6e74726f6c2f31a26964a36f2d31a7636f6d6d616e64a663616e63656ca26174d7ff3b9aca"
        "00695735a6a46e6f6465a6656467652d31a4726f6c65a86578656375746f72a77461736b5f6964a3612d31a87265706c"
        "795f746fa77265706c792e6fae636f7272656c6174696f6e5f6964a163"
    ),
    "control-reply-minimal": (
        "86a6736368656d61af636f6e74726f6c5f7265706c792f31a26964a36f2d31a7636f6d6d616e64a470696e67a46e6f64"
        "65a6656467652d31a4726f6c65aa646c712d726561706572a26174d6ff695735a5"
    ),
    "control-reply-full": (
        "88a6736368656d61af636f6e74726f6c5f7265706c792f31a26964a36f2d31a7636f6d6d616e64a57768657265a46e6f"
        "6465a6656467652d31a4726f6c65b3746965722d6578656375746f722d6c69676874a26174d7ff3b9aca00695735a6a4"
        "64617461a772756e6e696e67a56572726f72a26e6f"
    ),
    "cluster-change-minimal": (
        "86a6736368656d61b0636c75737465725f6368616e67652f31a477686174ab71756f72756d5f6c6f7374a26f6ec2a46e"
        "6f6465a87261626269744061a77365656e5f6279a87261626269744062a26174d6ff695735a5"
    ),
    "cluster-change-full": (
        "87a6736368656d61b0636c75737465725f6368616e67652f31a477686174a5616c61726da26f6ec3a46e6f6465a87261"
        "626269744061a77365656e5f6279a87261626269744062a26174d7ff3b9aca00695735a6a664657461696ca66d656d6f"
        "7279"
    ),
    "rpc_request-minimal": (
        "86a6736368656d61ad7270635f726571756573742f31a26964a3722d31a773657276696365a86d6174682e727063a763"
        "726561746564d6ff695735a5a974696d656f75745f73cb403e000000000000a87265706c795f746fa77265706c792e72"
    ),
    "rpc_request-full": (
        "8aa6736368656d61ad7270635f726571756573742f31a26964a3722d31a773657276696365a86d6174682e727063a461"
        "72677382a16105a16203a763726561746564d7ff3b9aca00695735a6a974696d656f75745f73cb3fe0000000000000a8"
        "7265706c795f746fa77265706c792e72ae636f7272656c6174696f6e5f6964a163ac636175736174696f6e5f6964a170"
        "ab7472616365706172656e74d93730302d34626639326633353737623334646136613363653932396430653065343733"
        "362d303066303637616130626139303262372d3031"
    ),
    "rpc_reply-minimal": "82a6736368656d61ab7270635f7265706c792f31a26964a3722d31",
    "rpc_reply-full": (
        "87a6736368656d61ab7270635f7265706c792f31a26964a3722d31a576616c756581a6726573756c7408a56572726f72"
        "82a474797065aa56616c75654572726f72a76d657373616765a26e6fa6736572766572a86d6174682e727063ae636f72"
        "72656c6174696f6e5f6964a163ab7472616365706172656e74d93730302d346266393266333537376233346461366133"
        "63653932396430653065343733362d303066303637616130626139303262372d3031"
    ),
    "error-minimal": "81a474797065aa56616c75654572726f72",
    "error-full": "83a474797065aa56616c75654572726f72a76d657373616765a26e6fa974726163656261636ba27462",
    "load-minimal": "83a474696572a56c69676874a3637075cb3fe0000000000000a96d656d6f72795f6d62cd0200",
    "load-full": (
        "8ca474696572a56c69676874a3637075cb3fe0000000000000a96d656d6f72795f6d62cd0200a86370755f75736564cb"
        "3fd0000000000000ae6d656d6f72795f757365645f6d6240a772756e6e696e6701a777616974696e6702a77374617274"
        "656403a973756363656564656404a66661696c656405a6776169745f7391cb3fe0000000000000a572756e5f7392cb3f"
        "f8000000000000cb4004000000000000"
    ),
}


@pytest.mark.parametrize("name", MESSAGES)
def test_json(name):
    message = MESSAGES[name]
    assert encode(message, JSON) == GOLDEN_JSON[name]
    assert as_data(decode(GOLDEN_JSON[name], type(message), JSON)) == as_data(message)


@pytest.mark.parametrize("name", MESSAGES)
def test_messagepack(name):
    message = MESSAGES[name]
    assert encode(message, MSGPACK) == bytes.fromhex(GOLDEN_MSGPACK[name])
    assert as_data(decode(bytes.fromhex(GOLDEN_MSGPACK[name]), type(message), MSGPACK)) == as_data(message)


def as_data(message):
    """A message with its raw fields decoded: two `Raw` compare by identity."""
    return {
        name: msgspec.json.decode(value) if isinstance(value, Raw) else value
        for name, value in msgspec.structs.asdict(message).items()
    }


def test_every_message_is_here():
    from fogactors import messages

    structs = {
        each
        for each in (getattr(messages, name) for name in messages.__all__)
        if isinstance(each, type) and issubclass(each, msgspec.Struct)
    }
    assert structs == {type(each) for each in MESSAGES.values()}


@pytest.mark.parametrize("name", MESSAGES)
def test_version_1_reads_a_later_version_with_unknown_fields(name):
    body = msgspec.json.decode(GOLDEN_JSON[name]) | {"added_later": {"deep": [1]}}
    if "schema" in body:
        body["schema"] = body["schema"].replace("/1", "/2")
    message = decode(msgspec.json.encode(body), type(MESSAGES[name]))
    expected = as_data(MESSAGES[name])
    assert as_data(message) == (expected | {"schema": body["schema"]} if "schema" in body else expected)


@pytest.mark.parametrize("name", MESSAGES)
@pytest.mark.parametrize("content_type", [JSON, MSGPACK])
def test_a_later_version_with_a_new_defaulted_field_reads_version_1(name, content_type):
    old = type(MESSAGES[name])
    later = msgspec.defstruct(old.__name__, [("added_later", int, 7)], bases=(old,), kw_only=True)
    message = decode(encode(MESSAGES[name], content_type), later, content_type)
    assert as_data(message) == as_data(MESSAGES[name]) | {"added_later": 7}
