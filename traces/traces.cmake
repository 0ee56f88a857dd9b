# protoc-c
