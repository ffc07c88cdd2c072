//! Which partition a key belongs to: murmur2 as Kafka's Java producer has it (`Utils.murmur2`, `BuiltInPartitioner.partitionForKey`) and
//! librdkafka's `partitioner=murmur2_random`, so that producers in other languages agree with the embedded log and with ours.

/// The partition of a key. An empty key is hashed like any other; keys are never absent in what we append.
///
/// # Panics
/// When `partitions` is not positive.
pub fn kafka_partition_of(key: &[u8], partitions: i32) -> i32 {
    assert!(partitions > 0, "a log has at least one partition");
    (murmur2(key) & 0x7fff_ffff) as i32 % partitions
}

fn murmur2(data: &[u8]) -> u32 {
    const M: u32 = 0x5bd1_e995;
    const R: u32 = 24;
    let mut hash = 0x9747_b28c_u32 ^ data.len() as u32;
    let mut words = data.chunks_exact(4);
    for word in &mut words {
        let mut k = u32::from_le_bytes(word.try_into().expect("chunks of four")).wrapping_mul(M);
        k = (k ^ (k >> R)).wrapping_mul(M);
        hash = hash.wrapping_mul(M) ^ k;
    }
    let tail = words.remainder();
    if !tail.is_empty() {
        for (index, byte) in tail.iter().enumerate() {
            hash ^= u32::from(*byte) << (8 * index);
        }
        hash = hash.wrapping_mul(M);
    }
    hash = (hash ^ (hash >> 13)).wrapping_mul(M);
    hash ^ (hash >> 15)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values from Kafka's `UtilsTest.testMurmur2`.
    #[test]
    fn murmur2_equals_javas() {
        for (key, expected) in [
            ("21", -973932308),
            ("foobar", -790332482),
            ("a-little-bit-long-string", -985981536),
            ("a-little-bit-longer-string", -1486304829),
            ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
            ("abc", 479470107),
        ] {
            assert_eq!(murmur2(key.as_bytes()) as i32, expected, "{key}");
        }
    }

    #[test]
    fn any_key_has_a_partition() {
        assert_eq!(kafka_partition_of(b"", 1), 0);
        for length in 0..64 {
            let key = vec![0xff_u8; length];
            assert!((0..7).contains(&kafka_partition_of(&key, 7)));
        }
    }
}
