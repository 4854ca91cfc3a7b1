//! [`PythonRandom`]: the functions of Python's `random` that SGLang's clients call.

use super::mersenne::Mersenne;

/// Python's `random` after `random.seed(seed)`.
#[derive(Clone)]
pub struct PythonRandom(Mersenne);

impl PythonRandom {
    /// After `random.seed(seed)`.
    pub fn new(seed: u64) -> Self {
        let (low, high) = (seed as u32, (seed >> 32) as u32);
        Self(if high == 0 { Mersenne::from_key(&[low]) } else { Mersenne::from_key(&[low, high]) })
    }

    /// `random.shuffle(items)`: Fisher and Yates from the end.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            let j = self.below(i + 1);
            items.swap(i, j);
        }
    }

    /// `random.choices(range(count), k=number)`: indices, drawn with replacement.
    pub fn choices(&mut self, count: usize, number: usize) -> Vec<usize> {
        let scale = count as f64;
        (0..number).map(|_| (self.0.next_f64() * scale) as usize).collect()
    }

    /// `random.sample(range(count), k=number)`: indices, drawn without replacement.
    ///
    /// Python keeps a pool while that is smaller than a set of what was chosen, and the two draw differently.
    ///
    /// # Panics
    /// If `number` exceeds `count`.
    pub fn sample(&mut self, count: usize, number: usize) -> Vec<usize> {
        assert!(number <= count, "a sample of {number} from {count}");
        let mut set_size = 21;
        if number > 5 {
            // 4 ** ceil(log(3 * number, 4)), in integers.
            let mut power = 1;
            while power < 3 * number {
                power *= 4;
            }
            set_size += power;
        }
        if count <= set_size {
            let mut pool: Vec<usize> = (0..count).collect();
            (0..number)
                .map(|i| {
                    let j = self.below(count - i);
                    let chosen = pool[j];
                    pool[j] = pool[count - i - 1];
                    chosen
                })
                .collect()
        } else {
            let mut chosen = Vec::with_capacity(number);
            while chosen.len() < number {
                let j = self.below(count);
                if !chosen.contains(&j) {
                    chosen.push(j);
                }
            }
            chosen
        }
    }

    /// `random.randrange(limit)`: the top bits of a draw, drawn again while not below `limit`.
    ///
    /// # Panics
    /// If `limit` is 0 or wider than 32 bits.
    pub fn below(&mut self, limit: usize) -> usize {
        let limit = u32::try_from(limit).expect("fewer than 2^32 items");
        assert!(limit > 0, "a number below 0");
        let shift = limit.leading_zeros();
        loop {
            let value = self.0.next_u32() >> shift;
            if value < limit {
                return value as usize;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Golden values printed by CPython 3.11.

    #[test]
    fn shuffles_are_pythons() {
        let mut items: Vec<u32> = (0..10).collect();
        PythonRandom::new(1).shuffle(&mut items);
        assert_eq!(items, GOLDEN_SHUFFLE);
    }

    #[test]
    fn choices_are_pythons() {
        assert_eq!(PythonRandom::new(1).choices(1000, 5), GOLDEN_CHOICES);
    }

    #[test]
    fn samples_are_pythons() {
        assert_eq!(PythonRandom::new(0).sample(164, 5), GOLDEN_SAMPLE_SET);
        assert_eq!(PythonRandom::new(0).sample(20, 5), GOLDEN_SAMPLE_POOL);
        assert_eq!(PythonRandom::new(0).sample(164, 40)[..5], GOLDEN_SAMPLE_LONG);
    }

    #[test]
    fn seeds_wider_than_a_word_are_keys_of_two() {
        assert_eq!(PythonRandom::new(1 << 40).below(1000), GOLDEN_WIDE);
    }

    const GOLDEN_SHUFFLE: [u32; 10] = [6, 8, 9, 7, 5, 3, 0, 4, 1, 2];
    const GOLDEN_CHOICES: [usize; 5] = [134, 847, 763, 255, 495];
    const GOLDEN_SAMPLE_SET: [usize; 5] = [98, 107, 10, 66, 130];
    const GOLDEN_SAMPLE_POOL: [usize; 5] = [12, 13, 1, 8, 15];
    const GOLDEN_SAMPLE_LONG: [usize; 5] = [98, 107, 10, 66, 130];
    const GOLDEN_WIDE: usize = 106;
}
