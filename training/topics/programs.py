"""The pool of small programs: what the model can write, explain and complete.

An entry is a task in words, how the answer opens, what is said after the code, and the code by language.
"""

BINARY_SEARCH_PY = '''def binary_search(items, target):
    """Return the index of target in the sorted list items, or -1."""
    low = 0
    high = len(items) - 1
    while low <= high:
        mid = (low + high) // 2
        if items[mid] == target:
            return mid
        if items[mid] < target:
            low = mid + 1
        else:
            high = mid - 1
    return -1


print(binary_search([1, 3, 5, 7, 9], 7))  # 3'''

BINARY_SEARCH_JS = '''function binarySearch(items, target) {
  let low = 0;
  let high = items.length - 1;
  while (low <= high) {
    const mid = Math.floor((low + high) / 2);
    if (items[mid] === target) return mid;
    if (items[mid] < target) low = mid + 1;
    else high = mid - 1;
  }
  return -1;
}'''

BINARY_SEARCH_RS = '''fn binary_search(items: &[i32], target: i32) -> Option<usize> {
    let mut low = 0;
    let mut high = items.len();
    while low < high {
        let mid = (low + high) / 2;
        if items[mid] == target {
            return Some(mid);
        }
        if items[mid] < target {
            low = mid + 1;
        } else {
            high = mid;
        }
    }
    None
}'''

# (task, opening, closing, {language: code}); the task reads after "a function that" or "how to".
PROGRAMS = [
    (["implements binary search", "does a binary search in a sorted list", "finds a value in a sorted list with binary search"],
     "Binary search looks for a value in a sorted list. Each step compares the middle item with the target and throws away the half that cannot hold it.",
     "The list must be sorted. Every step halves the range, so the search takes O(log n) steps.",
     {"Python": BINARY_SEARCH_PY, "JavaScript": BINARY_SEARCH_JS, "Rust": BINARY_SEARCH_RS}),
    (["computes the factorial of a number", "calculates n factorial", "returns the factorial of n"],
     "The factorial of n is the product of all whole numbers from 1 to n.",
     "The loop multiplies n - 1 times, and the factorial of 0 is 1.",
     {"Python": '''def factorial(n):
    """Return the product of the numbers from 1 to n."""
    result = 1
    for i in range(2, n + 1):
        result *= i
    return result


print(factorial(5))  # 120''',
      "JavaScript": '''function factorial(n) {
  let result = 1;
  for (let i = 2; i <= n; i++) {
    result *= i;
  }
  return result;
}''',
      "Rust": '''fn factorial(n: u64) -> u64 {
    (1..=n).product()
}'''}),
    (["computes the nth Fibonacci number", "returns the nth Fibonacci number", "calculates Fibonacci numbers"],
     "Each Fibonacci number is the sum of the two before it, starting from 0 and 1.",
     "Only the last two numbers are kept, so the function needs n steps and constant memory.",
     {"Python": '''def fibonacci(n):
    """Return the nth Fibonacci number, counting from 0."""
    a, b = 0, 1
    for _ in range(n):
        a, b = b, a + b
    return a


print(fibonacci(10))  # 55''',
      "JavaScript": '''function fibonacci(n) {
  let a = 0;
  let b = 1;
  for (let i = 0; i < n; i++) {
    [a, b] = [b, a + b];
  }
  return a;
}''',
      "Rust": '''fn fibonacci(n: u32) -> u64 {
    let (mut a, mut b) = (0, 1);
    for _ in 0..n {
        (a, b) = (b, a + b);
    }
    a
}'''}),
    (["finds the greatest common divisor of two numbers", "computes the gcd of two numbers"],
     "Euclid's rule: the greatest common divisor of a and b is that of b and the remainder of a by b.",
     "When the remainder is 0, the other number is the answer.",
     {"Python": '''def gcd(a, b):
    """Return the greatest common divisor of a and b."""
    while b != 0:
        a, b = b, a % b
    return a


print(gcd(48, 18))  # 6''',
      "JavaScript": '''function gcd(a, b) {
  while (b !== 0) {
    [a, b] = [b, a % b];
  }
  return a;
}''',
      "Rust": '''fn gcd(mut a: u64, mut b: u64) -> u64 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}'''}),
    (["checks whether a number is prime", "tests if a number is prime", "tells whether n is a prime number"],
     "A number is prime if it is greater than 1 and no smaller number except 1 divides it.",
     "It is enough to try divisors up to the square root of n.",
     {"Python": '''def is_prime(n):
    """Return True if n is a prime number."""
    if n < 2:
        return False
    i = 2
    while i * i <= n:
        if n % i == 0:
            return False
        i += 1
    return True


print(is_prime(7))  # True''',
      "JavaScript": '''function isPrime(n) {
  if (n < 2) return false;
  for (let i = 2; i * i <= n; i++) {
    if (n % i === 0) return false;
  }
  return true;
}''',
      "Rust": '''fn is_prime(n: u64) -> bool {
    if n < 2 {
        return false;
    }
    let mut i = 2;
    while i * i <= n {
        if n % i == 0 {
            return false;
        }
        i += 1;
    }
    true
}'''}),
    (["reverses a string", "returns a string backwards"],
     "To reverse a string, read its characters from the last to the first.",
     "The original string stays as it is.",
     {"Python": '''def reverse_string(text):
    """Return text with its characters in reverse order."""
    return text[::-1]


print(reverse_string("hello"))  # olleh''',
      "JavaScript": '''function reverseString(text) {
  return text.split("").reverse().join("");
}''',
      "Rust": '''fn reverse_string(text: &str) -> String {
    text.chars().rev().collect()
}'''}),
    (["checks whether a string is a palindrome", "tests if a word is a palindrome"],
     "A palindrome reads the same forwards and backwards, so compare the text with its reverse.",
     "Upper and lower case count as the same letter here.",
     {"Python": '''def is_palindrome(text):
    """Return True if text reads the same in both directions."""
    text = text.lower()
    return text == text[::-1]


print(is_palindrome("Level"))  # True''',
      "JavaScript": '''function isPalindrome(text) {
  const lower = text.toLowerCase();
  return lower === lower.split("").reverse().join("");
}''',
      "Rust": '''fn is_palindrome(text: &str) -> bool {
    let lower = text.to_lowercase();
    lower.chars().eq(lower.chars().rev())
}'''}),
    (["sorts a list with bubble sort", "implements bubble sort"],
     "Bubble sort walks through the list and swaps neighbours that are in the wrong order, until nothing is left to swap.",
     "It needs O(n^2) comparisons, so it suits short lists only.",
     {"Python": '''def bubble_sort(items):
    """Sort items in place and return it."""
    for end in range(len(items) - 1, 0, -1):
        for i in range(end):
            if items[i] > items[i + 1]:
                items[i], items[i + 1] = items[i + 1], items[i]
    return items


print(bubble_sort([4, 2, 9, 1]))  # [1, 2, 4, 9]''',
      "JavaScript": '''function bubbleSort(items) {
  for (let end = items.length - 1; end > 0; end--) {
    for (let i = 0; i < end; i++) {
      if (items[i] > items[i + 1]) {
        [items[i], items[i + 1]] = [items[i + 1], items[i]];
      }
    }
  }
  return items;
}'''}),
    (["sorts a list with merge sort", "implements merge sort"],
     "Merge sort splits the list into two halves, sorts each half, and merges the sorted halves.",
     "It takes O(n log n) steps and keeps equal items in their order.",
     {"Python": '''def merge_sort(items):
    """Return a sorted copy of items."""
    if len(items) < 2:
        return items
    mid = len(items) // 2
    left = merge_sort(items[:mid])
    right = merge_sort(items[mid:])
    result = []
    while left and right:
        if left[0] <= right[0]:
            result.append(left.pop(0))
        else:
            result.append(right.pop(0))
    return result + left + right


print(merge_sort([4, 2, 9, 1]))  # [1, 2, 4, 9]'''}),
    (["sorts a list with quicksort", "implements quicksort"],
     "Quicksort picks a pivot, puts the smaller items before it and the larger ones after it, and sorts both parts.",
     "On average it takes O(n log n) steps.",
     {"Python": '''def quicksort(items):
    """Return a sorted copy of items."""
    if len(items) < 2:
        return items
    pivot = items[0]
    smaller = [x for x in items[1:] if x < pivot]
    larger = [x for x in items[1:] if x >= pivot]
    return quicksort(smaller) + [pivot] + quicksort(larger)


print(quicksort([4, 2, 9, 1]))  # [1, 2, 4, 9]'''}),
    (["finds the largest number in a list", "returns the maximum of a list"],
     "Keep the largest number seen so far and compare it with every item.",
     "The list must hold at least one number.",
     {"Python": '''def largest(items):
    """Return the largest number in items."""
    best = items[0]
    for item in items[1:]:
        if item > best:
            best = item
    return best


print(largest([3, 8, 5]))  # 8''',
      "JavaScript": '''function largest(items) {
  let best = items[0];
  for (const item of items) {
    if (item > best) best = item;
  }
  return best;
}''',
      "Rust": '''fn largest(items: &[i32]) -> Option<i32> {
    items.iter().copied().max()
}'''}),
    (["adds up the numbers in a list", "returns the sum of a list"],
     "Start with zero and add every number of the list.",
     "An empty list gives 0.",
     {"Python": '''def total(items):
    """Return the sum of the numbers in items."""
    result = 0
    for item in items:
        result += item
    return result


print(total([1, 2, 3]))  # 6''',
      "JavaScript": '''function total(items) {
  let result = 0;
  for (const item of items) {
    result += item;
  }
  return result;
}''',
      "Rust": '''fn total(items: &[i32]) -> i32 {
    items.iter().sum()
}'''}),
    (["computes the average of a list", "returns the mean of a list of numbers"],
     "The average is the sum of the numbers divided by how many there are.",
     "The list must not be empty, or the division fails.",
     {"Python": '''def average(items):
    """Return the mean of the numbers in items."""
    return sum(items) / len(items)


print(average([2, 4, 6]))  # 4.0''',
      "JavaScript": '''function average(items) {
  const sum = items.reduce((a, b) => a + b, 0);
  return sum / items.length;
}'''}),
    (["counts the words in a text", "counts how often each word occurs"],
     "Split the text into words and count each of them in a dictionary.",
     "The result maps each word to its count.",
     {"Python": '''def word_count(text):
    """Return how often each word occurs in text."""
    counts = {}
    for word in text.lower().split():
        counts[word] = counts.get(word, 0) + 1
    return counts


print(word_count("a b a"))  # {'a': 2, 'b': 1}''',
      "JavaScript": '''function wordCount(text) {
  const counts = {};
  for (const word of text.toLowerCase().split(/\\s+/)) {
    counts[word] = (counts[word] || 0) + 1;
  }
  return counts;
}''',
      "Rust": '''use std::collections::HashMap;

fn word_count(text: &str) -> HashMap<&str, usize> {
    let mut counts = HashMap::new();
    for word in text.split_whitespace() {
        *counts.entry(word).or_insert(0) += 1;
    }
    counts
}'''}),
    (["counts the vowels in a string", "returns the number of vowels in a text"],
     "Go through the letters and count those that are a, e, i, o or u.",
     "The text is made lower case first, so that capital letters count too.",
     {"Python": '''def count_vowels(text):
    """Return the number of vowels in text."""
    count = 0
    for letter in text.lower():
        if letter in "aeiou":
            count += 1
    return count


print(count_vowels("Hello"))  # 2''',
      "JavaScript": '''function countVowels(text) {
  let count = 0;
  for (const letter of text.toLowerCase()) {
    if ("aeiou".includes(letter)) count++;
  }
  return count;
}'''}),
    (["implements FizzBuzz", "prints FizzBuzz up to n"],
     "FizzBuzz prints Fizz for multiples of 3, Buzz for multiples of 5, FizzBuzz for both, and otherwise the number.",
     "Multiples of 15 must be tested first.",
     {"Python": '''def fizzbuzz(n):
    """Print FizzBuzz for the numbers from 1 to n."""
    for i in range(1, n + 1):
        if i % 15 == 0:
            print("FizzBuzz")
        elif i % 3 == 0:
            print("Fizz")
        elif i % 5 == 0:
            print("Buzz")
        else:
            print(i)


fizzbuzz(15)''',
      "JavaScript": '''function fizzBuzz(n) {
  for (let i = 1; i <= n; i++) {
    if (i % 15 === 0) console.log("FizzBuzz");
    else if (i % 3 === 0) console.log("Fizz");
    else if (i % 5 === 0) console.log("Buzz");
    else console.log(i);
  }
}'''}),
    (["removes duplicates from a list", "returns a list without duplicates"],
     "Keep a set of what was seen and take only items that are new.",
     "The first of equal items stays, and the order is kept.",
     {"Python": '''def unique(items):
    """Return items without duplicates, in their order."""
    seen = set()
    result = []
    for item in items:
        if item not in seen:
            seen.add(item)
            result.append(item)
    return result


print(unique([1, 2, 1, 3]))  # [1, 2, 3]''',
      "JavaScript": '''function unique(items) {
  return [...new Set(items)];
}'''}),
    (["adds two numbers", "returns the sum of two numbers"],
     "The function takes two numbers and returns their sum.",
     "It works for whole numbers and for fractions.",
     {"Python": '''def add(a, b):
    """Return the sum of a and b."""
    return a + b


print(add(2, 3))  # 5''',
      "JavaScript": '''function add(a, b) {
  return a + b;
}''',
      "Rust": '''fn add(a: i32, b: i32) -> i32 {
    a + b
}'''}),
    (["converts Celsius to Fahrenheit", "turns a temperature in Celsius into Fahrenheit"],
     "Multiply the degrees Celsius by 9/5 and add 32.",
     "Water freezes at 32 and boils at 212 degrees Fahrenheit.",
     {"Python": '''def to_fahrenheit(celsius):
    """Return the temperature in Fahrenheit."""
    return celsius * 9 / 5 + 32


print(to_fahrenheit(100))  # 212.0''',
      "Rust": '''fn to_fahrenheit(celsius: f64) -> f64 {
    celsius * 9.0 / 5.0 + 32.0
}'''}),
    (["flattens a nested list", "turns a nested list into a flat list"],
     "Walk through the list, and where an item is a list itself, flatten it first.",
     "The function calls itself, so any depth works.",
     {"Python": '''def flatten(items):
    """Return the items of a nested list as one flat list."""
    result = []
    for item in items:
        if isinstance(item, list):
            result.extend(flatten(item))
        else:
            result.append(item)
    return result


print(flatten([1, [2, [3]]]))  # [1, 2, 3]'''}),
    (["reads a file and returns its lines", "reads the lines of a file"],
     "Open the file, read it line by line, and strip the line ends.",
     "The with block closes the file even if an error occurs.",
     {"Python": '''def read_lines(path):
    """Return the lines of the file at path, without line ends."""
    with open(path) as file:
        return [line.rstrip() for line in file]'''}),
    (["implements a stack", "defines a stack class"],
     "A stack gives back the item that was added last.",
     "Both operations take constant time.",
     {"Python": '''class Stack:
    """A stack of items: the last one in is the first one out."""

    def __init__(self):
        self.items = []

    def push(self, item):
        self.items.append(item)

    def pop(self):
        return self.items.pop()'''}),
    (["checks whether a number is even", "tells if a number is even"],
     "A number is even if dividing it by 2 leaves no remainder.",
     "It returns a boolean.",
     {"Python": '''def is_even(n):
    """Return True if n is even."""
    return n % 2 == 0


print(is_even(4))  # True''',
      "JavaScript": '''function isEven(n) {
  return n % 2 === 0;
}''',
      "Rust": '''fn is_even(n: i64) -> bool {
    n % 2 == 0
}'''}),
    (["prints hello world", "says hello world"],
     "This is the smallest program that shows something.",
     "Run it, and it prints one line.",
     {"Python": '''print("Hello, world!")''',
      "JavaScript": '''console.log("Hello, world!");''',
      "Rust": '''fn main() {
    println!("Hello, world!");
}'''}),
]

ASKS = [
    "Write a {lang} function that {task}.", "Write a {lang} function that {task}.",
    "Please write a {lang} function that {task}.", "Can you write a {lang} function that {task}?",
    "Write a function in {lang} that {task}.", "I need a {lang} function that {task}.",
    "Show me a {lang} function that {task}.", "Give me {lang} code that {task}.", "Write {lang} code that {task}.",
    "Could you show me {lang} code that {task}?", "write a {lang} function that {task}",
    "Implement a {lang} function that {task}.", "Create a {lang} function that {task}.",
]
BARE_ASKS = ["Write a function that {task}.", "Write code that {task}.", "Show me code that {task}.",
             "Please write a function that {task}."]
EXPLAIN_ASKS = ["Explain this code:", "What does this code do?", "What does this function do?",
                "Can you explain this function?", "Please explain this code."]


def fenced(lang, code):
    return f"```{lang.lower()}\n{code}\n```"


def request(rng):
    """(user, assistant) for a program out of the pool."""
    tasks, opening, closing, codes = rng.choice(PROGRAMS + PROGRAMS[:3])
    lang = rng.choice(sorted(codes) + ["Python"])
    if lang == "Python" and rng.random() < 0.12:
        ask = rng.choice(BARE_ASKS).format(task=rng.choice(tasks))
    else:
        ask = rng.choice(ASKS).format(lang=lang, task=rng.choice(tasks))
    return ask, f"{opening}\n\n{fenced(lang, codes[lang])}\n\n{closing}"


def explanation(rng):
    """(user, assistant) that explains a program out of the pool."""
    tasks, opening, closing, codes = rng.choice(PROGRAMS)
    lang = rng.choice(sorted(codes))
    code = renamed(rng, codes[lang].split("\n\n\nprint(")[0])
    ask = f"{rng.choice(EXPLAIN_ASKS)}\n\n{fenced(lang, code)}"
    return ask, f"This {lang} code {tasks[0]}. {opening} {closing}"


# Names that may stand for one another. A name is only changed to one that the code does not use yet.
SYNONYMS = {
    "items": ["items", "values", "numbers", "data", "elements"],
    "target": ["target", "wanted", "key", "needle"],
    "result": ["result", "answer", "output", "product"],
    "text": ["text", "word", "line", "message"],
    "n": ["n", "limit", "number", "k"],
    "a": ["a", "x", "first"],
    "b": ["b", "y", "second"],
    "low": ["low", "left", "start"],
    "high": ["high", "right", "stop"],
    "mid": ["mid", "middle", "centre"],
    "i": ["i", "j", "index"],
    "best": ["best", "largest_so_far", "top"],
    "item": ["item", "value", "entry"],
    "count": ["count", "found", "seen_so_far"],
    "counts": ["counts", "table", "totals"],
    "letter": ["letter", "char", "c"],
    "seen": ["seen", "known", "visited"],
    "pivot": ["pivot", "p", "chosen"],
    "celsius": ["celsius", "degrees", "temperature"],
    "path": ["path", "name", "filename"],
}


def renamed(rng, code):
    """The code with some of its names changed."""
    import re

    names = set(re.findall(r"[A-Za-z_]\w*", code))
    for name in sorted(names & set(SYNONYMS)):
        other = rng.choice(SYNONYMS[name])
        if other not in names:
            names.add(other)
            # A name after a dot or inside quotes is a method or a text, not this variable.
            code = re.sub(rf"(?<![\w.\"']){name}(?![\w\"'])", other, code)
    return code
