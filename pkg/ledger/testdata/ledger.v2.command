writ.cmd.0
Content-Type: application/cloudevents-batch+json
Nats-Expected-Stream: LEDGER
Writ-Lengths: 926

[{"specversion":"1.0","traceparent":"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01","id":"w1","source":"/writ/api","type":"writ.command.v1","subject":"contact/c1","time":"2026-03-04T05:06:07.890123Z","datacontenttype":"application/json","data":{"decision":{"id":"d1","stage":"request","tenant":"acme","principal":{"id":"user-1","version":0,"roles":null},"resource":{"kind":"contact","id":"c1"},"action":"update","effect":"allow","policy":{},"evaluated_at":"2026-03-04T05:06:07.890123Z","took_us":0,"request":{"id":""},"command":{"id":"w1","sha256":"c5eff68d59e022d8833fae6a2c69e9d296abdbca9d52a6a51c0185b1706a97a4","expires":"2026-03-04T06:06:07.890123Z"}},"command":{"id":"w1","kind":"contact","resource_id":"c1","action":"update","tenant":"acme","principal_id":"user-1","body":{"first_name":"Zoë"},"issued_at":"2026-03-04T05:06:07.890123Z"},"seal":{"kid":"k1","mac":"SJNxl667PPlnlOU3_xG8L2hF1k2dQO0QSPRmEs-l1-4"}}}]
