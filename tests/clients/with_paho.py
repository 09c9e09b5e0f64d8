"""paho-mqtt against a broker: with_paho.py tcp|websockets HOST PORT 4|5 [CAFILE]. Says "fine", or fails."""
import queue
import sys

import paho.mqtt.client as mqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

transport, host, port, level = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
cafile = sys.argv[5] if len(sys.argv) > 5 else ""
BASE = f"paho{level}-{transport}{'-tls' if cafile else ''}"
V5 = level == 5


class Peer:
    """A client with what it got; waits for whatever it asks."""

    def __init__(self, name, clean=True, will=None, expiry=None, alias_max=None):
        self.got, self.told = queue.Queue(), queue.Queue()
        options = {} if V5 else {"clean_session": clean}
        self.client = mqtt.Client(
            mqtt.CallbackAPIVersion.VERSION2, client_id=f"{BASE}-{name}", transport=transport,
            protocol=mqtt.MQTTv5 if V5 else mqtt.MQTTv311, **options)
        if transport == "websockets":
            self.client.ws_set_options(path="/mqtt")
        if cafile:
            self.client.tls_set(cafile)
        if will:
            self.client.will_set(will, b"gone", 1)
        self.client.on_connect = lambda c, u, flags, reason, p: self.told.put((str(reason), flags.session_present))
        self.client.on_subscribe = lambda c, u, mid, codes, p: self.told.put(codes)
        self.client.on_message = lambda c, u, message: self.got.put(message)
        properties = None
        if V5:
            properties = Properties(PacketTypes.CONNECT)
            if expiry is not None:
                properties.SessionExpiryInterval = expiry
            if alias_max is not None:
                properties.TopicAliasMaximum = alias_max
        more = {"clean_start": clean, "properties": properties} if V5 else {}
        self.client.connect(host, port, keepalive=30, **more)
        self.client.loop_start()
        reason, self.present = self.told.get(timeout=30)
        assert reason == "Success", reason

    def subscribe(self, topic, qos=2):
        self.client.subscribe(topic, qos)
        codes = self.told.get(timeout=30)
        assert not codes[0].is_failure, codes

    def publish(self, topic, payload, qos=1, **more):
        self.client.publish(topic, payload, qos, **more).wait_for_publish(30)

    def next(self):
        return self.got.get(timeout=30)

    def end(self):
        self.client.disconnect()
        self.client.loop_stop()


a = Peer("a")
a.subscribe(f"{BASE}/#")
for qos in (0, 1, 2):
    a.publish(f"{BASE}/qos", b"%d" % qos, qos)
    message = a.next()
    assert (message.payload, message.qos, message.retain) == (b"%d" % qos, qos, False)

a.publish(f"{BASE}/kept", b"kept", retain=True)
a.next()
late = Peer("late")
late.subscribe(f"{BASE}/kept")
message = late.next()
assert (message.payload, message.retain) == (b"kept", True)
late.end()
a.publish(f"{BASE}/kept", b"", retain=True)
a.next()

dying = Peer("dying", will=f"{BASE}/will")
dying.client.loop_stop()
dying.client.socket().close()
assert a.next().payload == b"gone"

stays = Peer("stays", clean=False, expiry=60)
assert not stays.present
stays.subscribe(f"{BASE}/later")
stays.end()
a.publish(f"{BASE}/later", b"waited", 2)
a.next()
stays = Peer("stays", clean=False, expiry=60)
assert stays.present
assert stays.next().payload == b"waited"
stays.end()

members = [Peer("m1"), Peer("m2")]
for member in members:
    member.subscribe(f"$share/group/{BASE}/shared")
for n in range(4):
    a.publish(f"{BASE}/shared", b"%d" % n)
    a.next()
assert sorted(member.next().payload for member in members for _ in range(2)) == [b"0", b"1", b"2", b"3"]
for member in members:
    member.end()

if V5:
    properties = Properties(PacketTypes.PUBLISH)
    properties.UserProperty = [("b", "2"), ("b", "1"), ("a", "3")]
    properties.MessageExpiryInterval = 100
    properties.ResponseTopic = f"{BASE}/answer"
    properties.CorrelationData = b"\1\2"
    properties.ContentType = "text/plain"
    properties.PayloadFormatIndicator = 1
    a.publish(f"{BASE}/properties", b"x", properties=properties)
    got = a.next().properties
    assert got.UserProperty == [("b", "2"), ("b", "1"), ("a", "3")], got
    assert 90 < got.MessageExpiryInterval <= 100, got
    assert (got.ResponseTopic, got.CorrelationData) == (f"{BASE}/answer", b"\1\2"), got
    assert (got.ContentType, got.PayloadFormatIndicator) == ("text/plain", 1), got
a.end()
print("fine")
