"""Kafka's wire protocol: values to bytes and back. No I/O, no trio, nothing of kbroker.

    primitives                varints, CRC-32C
    schema, codegen           a message is an annotated class; its codec is compiled per version, on first use
    source decoding encoding  how codegen writes a codec
    errors, api               error codes; keys to classes, header versions
    foreign                   what else arrives at a port for Kafka
    frames                    a byte stream to frames to requests; responses to bytes
    records, compression      record batches and their codecs
    walk                      whether records are what their batch's header says
    messages/                 the declarations by family

Nothing is imported here, so that `import kafka_wire.errors` costs no more than it says.
"""
