//! [`Mersenne`]: MT19937, the generator under both Python's `random` and NumPy's legacy functions.

const WORDS: usize = 624;
const SHIFT: usize = 397;

/// The state of MT19937: 624 words, tempered one at a time.
///
/// Source: Matsumoto and Nishimura, "Mersenne Twister", `mt19937ar.c`.
#[derive(Clone)]
pub(super) struct Mersenne {
    words: Box<[u32; WORDS]>,
    next: usize,
}

impl Mersenne {
    /// Seeded by one number (`init_genrand`), as NumPy's `random.seed(int)` does.
    pub(super) fn from_seed(seed: u32) -> Self {
        let mut words = Box::new([0; WORDS]);
        words[0] = seed;
        for i in 1..WORDS {
            let last = words[i - 1];
            words[i] = 1_812_433_253_u32.wrapping_mul(last ^ (last >> 30)).wrapping_add(i as u32);
        }
        Self { words, next: WORDS }
    }

    /// Seeded by a key (`init_by_array`), as Python's `random.seed(int)` does with the number's 32-bit digits,
    /// lowest first.
    ///
    /// # Panics
    /// If `key` is empty.
    pub(super) fn from_key(key: &[u32]) -> Self {
        assert!(!key.is_empty(), "a key has at least one word");
        let mut mersenne = Self::from_seed(19_650_218);
        let words = &mut mersenne.words;
        let (mut i, mut j) = (1, 0);
        let mixed = |words: &[u32; WORDS], i: usize, factor: u32| {
            let last = words[i - 1];
            words[i] ^ (last ^ (last >> 30)).wrapping_mul(factor)
        };
        for _ in 0..WORDS.max(key.len()) {
            words[i] = mixed(words, i, 1_664_525).wrapping_add(key[j]).wrapping_add(j as u32);
            i += 1;
            if i == WORDS {
                words[0] = words[WORDS - 1];
                i = 1;
            }
            j = (j + 1) % key.len();
        }
        for _ in 0..WORDS - 1 {
            words[i] = mixed(words, i, 1_566_083_941).wrapping_sub(i as u32);
            i += 1;
            if i == WORDS {
                words[0] = words[WORDS - 1];
                i = 1;
            }
        }
        words[0] = 0x8000_0000;
        mersenne
    }

    /// The next 32 bits.
    pub(super) fn next_u32(&mut self) -> u32 {
        if self.next == WORDS {
            self.twist();
        }
        let mut word = self.words[self.next];
        self.next += 1;
        word ^= word >> 11;
        word ^= (word << 7) & 0x9d2c_5680;
        word ^= (word << 15) & 0xefc6_0000;
        word ^ (word >> 18)
    }

    /// A double in `[0, 1)` from 53 bits of two draws (`genrand_res53`).
    pub(super) fn next_f64(&mut self) -> f64 {
        let high = f64::from(self.next_u32() >> 5);
        let low = f64::from(self.next_u32() >> 6);
        (high * 67_108_864.0 + low) / 9_007_199_254_740_992.0
    }

    fn twist(&mut self) {
        for i in 0..WORDS {
            let joined = (self.words[i] & 0x8000_0000) | (self.words[(i + 1) % WORDS] & 0x7fff_ffff);
            let odd = if joined & 1 == 1 { 0x9908_b0df } else { 0 };
            self.words[i] = self.words[(i + SHIFT) % WORDS] ^ (joined >> 1) ^ odd;
        }
        self.next = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_authors_own_vectors_come_out() {
        // mt19937ar.out: init_by_array({0x123, 0x234, 0x345, 0x456}).
        let mut mersenne = Mersenne::from_key(&[0x123, 0x234, 0x345, 0x456]);
        let first: Vec<u32> = (0..5).map(|_| mersenne.next_u32()).collect();
        assert_eq!(first, [1067595299, 955945823, 477289528, 4107218783, 4228976476]);
    }

    #[test]
    fn the_standard_librarys_ten_thousandth_number_comes_out() {
        // ISO C++ [rand.predef]: the 10000th draw of a default mt19937 (seed 5489) is 4123659995.
        let mut mersenne = Mersenne::from_seed(5489);
        let last = (0..10_000).map(|_| mersenne.next_u32()).last();
        assert_eq!(last, Some(4_123_659_995));
    }
}
