typedef int shard_placeholder;
