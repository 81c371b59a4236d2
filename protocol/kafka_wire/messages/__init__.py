"""The declarations of Kafka's messages, one module for each family of APIs. `api.request_class(key)` finds them.

The facts (names, order, versions, types, tags) are Kafka 4.3's; tests compare them with Kafka's own JSON. The versions
of a nested struct are those of its message. Structs keep Kafka's names, a few have a clearer one."""
