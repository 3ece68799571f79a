"""
The gRPC services of the cache: protobuf in, protobuf out.
"""
