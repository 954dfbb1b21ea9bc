//! How each kind of value is written in a file: read from it and printed back, one type a notation.
//!
//! A notation is lenient nowhere: a duration without its unit or a size whose unit reads two ways is refused
//! with what would be right, since a wrong guess here is a limit that is off by a factor of a thousand in
//! production. Reading and printing stand side by side so that what is printed is always read back as the
//! same value.

use std::{ffi::OsStr, time::Duration};

use figment::value::Value;

use super::values::{ListenAddress, UpstreamUrl};

/// A way to write values of type `T`.
pub(super) trait Notation<T> {
    /// Takes the value, or says what would be right.
    fn read(&self, value: &Value) -> Result<T, String>;
    /// The value as [`Notation::read`] takes it, secrets aside.
    fn print(&self, value: &T) -> toml::Value;
}

/// `true` or `false`.
pub(super) struct Switch;

/// A whole number of at least `min`.
pub(super) struct Count {
    pub(super) min: usize,
}

/// The largest [`Count`]: what is counted (threads, sockets, entries) is counted in 32 bits somewhere below.
const COUNT_MAX: usize = u32::MAX as usize;

/// A share, from 0.0 to 1.0.
pub(super) struct Share;

/// A duration of at least `min`: a whole number and `ms`, `s`, `m`, `h` or `d`.
pub(super) struct Time {
    pub(super) min: Duration,
}

/// Nothing here is sensibly longer, and it keeps a deadline computed from it far from overflow.
const TIME_MAX: Duration = Duration::from_hours(10 * 365 * 24);

/// A number of bytes of at least `min`: a whole number and a unit, or a plain count.
pub(super) struct Size {
    pub(super) min: usize,
}

/// The binary units as Redis means them and the decimal ones as the rest of the world does. `64mb` is in
/// neither: redis.conf takes it for 64 MiB, a disk's maker for 64 MB.
const SIZE_UNITS: [(&str, usize); 11] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("KB", 1_000),
    ("kB", 1_000),
    ("B", 1),
    ("", 1),
];

/// One of a few words.
pub(super) struct OneOf<T: 'static>(pub(super) &'static [(&'static str, T)]);

/// A text that is not empty; the field says what it is, with an example.
pub(super) struct Text(pub(super) &'static str);

/// The name of a command, kept in upper case.
pub(super) struct CommandName;

/// A path or another text, or `""` for none: what cannot be left out in a variable can be emptied.
pub(super) struct Optional;

/// A key of the server, of so many bytes at most, or `""` for none.
pub(super) struct OptionalKey {
    pub(super) bytes_max: usize,
}

/// A [`ListenAddress`].
pub(super) struct Listen;

/// An [`UpstreamUrl`]. Its errors do not repeat what was written, for it may hold a password.
pub(super) struct SecretUrl;

/// A list without duplicates, of at least `min` items in the notation `item`.
pub(super) struct List<N> {
    pub(super) item: N,
    pub(super) min: usize,
}

/// A list of tables, of which only the number is taken.
pub(super) struct Tables;

/// `expected ..., found ...`, where what was found is shown unless it may hold a password.
pub(super) fn expected(right: &str, value: &Value) -> String {
    let found = match value {
        Value::String(_, text) if text.contains('@') => {
            "a text that is not shown, as it may hold a password".into()
        }
        Value::String(_, text) => format!("{text:?}"),
        Value::Char(_, letter) => format!("{letter:?}"),
        Value::Bool(_, switch) => switch.to_string(),
        Value::Num(_, number) => match (number.to_u128(), number.to_i128()) {
            (Some(whole), _) => whole.to_string(),
            (None, Some(whole)) => whole.to_string(),
            (None, None) => number.to_f64().unwrap_or(f64::NAN).to_string(),
        },
        Value::Empty(..) => "nothing".into(),
        Value::Dict(..) => "a table".into(),
        Value::Array(..) => "a list".into(),
    };
    format!("expected {right}, found {found}")
}

/// A number that is whole and not negative. A file's integers come signed, a variable's unsigned.
fn whole(value: &Value) -> Option<u128> {
    value.to_num()?.to_u128_lossy()
}

impl Notation<bool> for Switch {
    fn read(&self, value: &Value) -> Result<bool, String> {
        value.to_bool().ok_or_else(|| expected("true or false", value))
    }

    fn print(&self, value: &bool) -> toml::Value {
        (*value).into()
    }
}

impl Notation<usize> for Count {
    fn read(&self, value: &Value) -> Result<usize, String> {
        let count = whole(value).and_then(|count| usize::try_from(count).ok());
        count
            .filter(|count| (self.min..=COUNT_MAX).contains(count))
            .ok_or_else(|| expected(&format!("a whole number from {} to {COUNT_MAX}", self.min), value))
    }

    fn print(&self, value: &usize) -> toml::Value {
        integer(*value)
    }
}

fn integer(number: usize) -> toml::Value {
    i64::try_from(number).unwrap_or(i64::MAX).into()
}

impl Notation<f64> for Share {
    fn read(&self, value: &Value) -> Result<f64, String> {
        let share = match whole(value) {
            Some(0) => Some(0.0),
            Some(1) => Some(1.0),
            _ => value.to_num().and_then(|number| number.to_f64()),
        };
        share
            .filter(|share| (0.0..=1.0).contains(share))
            .ok_or_else(|| expected("a share from 0.0 to 1.0", value))
    }

    fn print(&self, value: &f64) -> toml::Value {
        (*value).into()
    }
}

impl Time {
    pub(super) const ANY: Self = Self { min: Duration::ZERO };
    pub(super) const POSITIVE: Self = Self { min: Duration::from_millis(1) };
}

impl Notation<Duration> for Time {
    fn read(&self, value: &Value) -> Result<Duration, String> {
        let form = "a duration with its unit, such as \"250ms\", \"30s\" or \"1h\"";
        if let Some(count) = whole(value) {
            return Err(format!("{}; if seconds are meant, write \"{count}s\"", expected(form, value)));
        }
        let time = value.as_str().and_then(duration).ok_or_else(|| expected(form, value))?;
        if time < self.min {
            Err(expected(&format!("at least \"{}\"", duration_text(self.min)), value))
        } else if time > TIME_MAX {
            Err(expected(&format!("at most \"{}\"", duration_text(TIME_MAX)), value))
        } else {
            Ok(time)
        }
    }

    fn print(&self, value: &Duration) -> toml::Value {
        duration_text(*value).into()
    }
}

fn duration(text: &str) -> Option<Duration> {
    let (number, unit) = split_number(text)?;
    let unit_ms: u64 = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60 * 1_000,
        "h" => 60 * 60 * 1_000,
        "d" => 24 * 60 * 60 * 1_000,
        _ => return None,
    };
    // What overflows is far over TIME_MAX, and is refused as such.
    Some(number.checked_mul(unit_ms).map_or(Duration::MAX, Duration::from_millis))
}

/// In hours, seconds or milliseconds, whichever is the largest that needs no fraction; minutes and days are
/// only read, so that a minute reads "60s" as it does in the documentation.
fn duration_text(time: Duration) -> String {
    let ms = time.as_millis();
    match ms {
        0 => "0s".into(),
        _ if ms.is_multiple_of(3_600_000) => format!("{}h", ms / 3_600_000),
        _ if ms.is_multiple_of(1_000) => format!("{}s", ms / 1_000),
        _ => format!("{ms}ms"),
    }
}

/// The digits at the beginning of `text` as a number, and the rest.
fn split_number(text: &str) -> Option<(u64, &str)> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, rest) = text.split_at(digits);
    Some((number.parse().ok()?, rest))
}

impl Notation<usize> for Size {
    fn read(&self, value: &Value) -> Result<usize, String> {
        let size = match value.as_str() {
            Some(text) => size(text),
            None => whole(value).and_then(|bytes| usize::try_from(bytes).ok()),
        };
        // Half the address space: room to add two of them up without overflow.
        let size = size.filter(|size| isize::try_from(*size).is_ok()).ok_or_else(|| {
            expected(
                "a size, such as \"64KiB\" (1024 bytes each), \"512MB\" (1000 x 1000 each) or \"1048576\"",
                value,
            )
        })?;
        if size < self.min {
            Err(expected(&format!("at least \"{}\"", size_text(self.min)), value))
        } else {
            Ok(size)
        }
    }

    fn print(&self, value: &usize) -> toml::Value {
        size_text(*value).into()
    }
}

fn size(text: &str) -> Option<usize> {
    let (number, unit) = split_number(text)?;
    let (_, unit_bytes) = SIZE_UNITS.iter().find(|(name, _)| *name == unit)?;
    usize::try_from(number).ok()?.checked_mul(*unit_bytes)
}

/// In the largest binary unit that needs no fraction.
fn size_text(bytes: usize) -> String {
    let (unit, unit_bytes) = SIZE_UNITS[..4]
        .iter()
        .copied()
        .find(|(_, unit_bytes)| bytes > 0 && bytes.is_multiple_of(*unit_bytes))
        .unwrap_or(("", 1));
    format!("{}{unit}", bytes / unit_bytes)
}

impl<T: Copy + PartialEq> Notation<T> for OneOf<T> {
    fn read(&self, value: &Value) -> Result<T, String> {
        let word = value.as_str().and_then(|text| self.0.iter().find(|(word, _)| *word == text));
        word.map(|(_, meaning)| *meaning).ok_or_else(|| {
            let words: Vec<_> = self.0.iter().map(|(word, _)| format!("\"{word}\"")).collect();
            expected(&words.join(" or "), value)
        })
    }

    fn print(&self, value: &T) -> toml::Value {
        let row = self.0.iter().find(|(_, meaning)| meaning == value);
        row.expect("every value of the type has its word").0.into()
    }
}

impl Notation<String> for Text {
    fn read(&self, value: &Value) -> Result<String, String> {
        let text = value.as_str().filter(|text| !text.is_empty());
        text.map(str::to_owned).ok_or_else(|| expected(self.0, value))
    }

    fn print(&self, value: &String) -> toml::Value {
        value.as_str().into()
    }
}

impl Notation<String> for CommandName {
    fn read(&self, value: &Value) -> Result<String, String> {
        let name = value.as_str().filter(|name| !name.is_empty());
        // No blank and no `|`: subcommands are not told apart, and to take "CONFIG|SET" without ever matching
        // it would be a lock that does not lock.
        let name = name.filter(|name| name.bytes().all(|b| b.is_ascii_graphic() && b != b'|'));
        name.map(str::to_ascii_uppercase).ok_or_else(|| {
            expected("the name of a whole command, such as \"FLUSHALL\" or \"JSON.GET\"", value)
        })
    }

    fn print(&self, value: &String) -> toml::Value {
        value.as_str().into()
    }
}

impl<T: for<'a> From<&'a str> + AsRef<OsStr>> Notation<Option<T>> for Optional {
    fn read(&self, value: &Value) -> Result<Option<T>, String> {
        match value.as_str() {
            Some("") => Ok(None),
            Some(text) => Ok(Some(text.into())),
            None => Err(expected("a text in quotes, or \"\" for none", value)),
        }
    }

    fn print(&self, value: &Option<T>) -> toml::Value {
        value.as_ref().map(|text| text.as_ref().to_string_lossy().into_owned()).unwrap_or_default().into()
    }
}

impl Notation<Option<String>> for OptionalKey {
    fn read(&self, value: &Value) -> Result<Option<String>, String> {
        let key: Option<String> = Optional.read(value)?;
        match key {
            Some(key) if key.len() > self.bytes_max => {
                Err(format!("expected a key of at most {} bytes, found one of {}", self.bytes_max, key.len()))
            }
            key => Ok(key),
        }
    }

    fn print(&self, value: &Option<String>) -> toml::Value {
        Optional.print(value)
    }
}

impl Notation<ListenAddress> for Listen {
    fn read(&self, value: &Value) -> Result<ListenAddress, String> {
        let address = value.as_str().unwrap_or_default().parse();
        address.map_err(|right: super::InvalidValue| expected(&right.to_string(), value))
    }

    fn print(&self, value: &ListenAddress) -> toml::Value {
        value.to_string().into()
    }
}

impl Notation<UpstreamUrl> for SecretUrl {
    fn read(&self, value: &Value) -> Result<UpstreamUrl, String> {
        let url = value.as_str().unwrap_or_default().parse();
        url.map_err(|right: super::InvalidValue| format!("expected {right} (what was found is not shown)"))
    }

    fn print(&self, value: &UpstreamUrl) -> toml::Value {
        value.to_string().into()
    }
}

impl<T: PartialEq, N: Notation<T>> Notation<Vec<T>> for List<N> {
    fn read(&self, value: &Value) -> Result<Vec<T>, String> {
        let items =
            value.as_array().ok_or_else(|| expected("a list in brackets, such as [\"a\", \"b\"]", value))?;
        let mut list = Vec::with_capacity(items.len());
        for item in items {
            let read = self.item.read(item)?;
            if list.contains(&read) {
                return Err(format!("{} is listed twice: once is enough", self.item.print(&read)));
            }
            list.push(read);
        }
        if list.len() < self.min {
            return Err(format!("expected at least {} in the list, found {}", self.min, list.len()));
        }
        Ok(list)
    }

    fn print(&self, value: &Vec<T>) -> toml::Value {
        toml::Value::Array(value.iter().map(|item| self.item.print(item)).collect())
    }
}

impl Notation<usize> for Tables {
    fn read(&self, value: &Value) -> Result<usize, String> {
        let tables = value.as_array().filter(|items| items.iter().all(|item| item.as_dict().is_some()));
        tables.map(<[Value]>::len).ok_or_else(|| expected("a list of tables", value))
    }

    fn print(&self, _: &usize) -> toml::Value {
        toml::Value::Array(Vec::new())
    }
}

#[cfg(test)]
mod tests {
    use figment::value::Dict;

    use super::*;

    /// A value as a file has it.
    fn in_file(text: &str) -> Value {
        let file: Dict = toml::from_str(&format!("key = {text}")).unwrap();
        file["key"].clone()
    }

    /// A value as a variable or a flag has it.
    fn in_variable(text: &str) -> Value {
        text.parse().unwrap()
    }

    fn time(text: &str) -> Result<Duration, String> {
        Time::ANY.read(&Value::from(text))
    }

    fn bytes(text: &str) -> Result<usize, String> {
        Size { min: 0 }.read(&Value::from(text))
    }

    #[test]
    fn counts_are_whole_and_bounded() {
        for read in [in_file, in_variable] {
            assert_eq!(Count { min: 1 }.read(&read("1")), Ok(1));
            assert_eq!(Count { min: 0 }.read(&read("4294967295")), Ok(COUNT_MAX));
            for wrong in ["0", "-1", "1.0", "4294967296", "9223372036854775807", "\"1\"", "true", "[1]"] {
                let why = Count { min: 1 }.read(&read(wrong)).expect_err(wrong);
                assert!(why.starts_with("expected a whole number from 1 to 4294967295, found "), "{why}");
            }
        }
        assert!(Count { min: 1 }.read(&in_file("-7")).unwrap_err().ends_with("found -7"));
    }

    #[test]
    fn durations() {
        for (text, ms) in [
            ("0s", 0),
            ("250ms", 250),
            ("30s", 30_000),
            ("2m", 120_000),
            ("1h", 3_600_000),
            ("1d", 86_400_000),
        ] {
            assert_eq!(time(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for text in
            ["", "s", "5", "-1s", "+1s", "1.5s", "1 s", "1S", "1h30m", "1w", "1us", "99999999999999999999s"]
        {
            assert!(time(text).unwrap_err().contains("250ms"), "{text}");
        }
        assert!(time("3651d").unwrap_err().contains("at most \"87600h\""));
        assert!(time("18446744073709551615d").unwrap_err().contains("at most"));
        assert!(Time::POSITIVE.read(&Value::from("0s")).unwrap_err().contains("at least \"1ms\""));
    }

    #[test]
    fn a_duration_without_a_unit_is_refused_with_one() {
        for read in [in_file, in_variable] {
            let why = Time::ANY.read(&read("30")).unwrap_err();
            assert!(why.ends_with("found 30; if seconds are meant, write \"30s\""), "{why}");
        }
    }

    #[test]
    fn sizes() {
        for (text, size) in [
            ("0", 0),
            ("1048576", 1 << 20),
            ("17B", 17),
            ("64KiB", 64 << 10),
            ("3kB", 3_000),
            ("3KB", 3_000),
            ("256MiB", 256 << 20),
            ("512MB", 512_000_000),
            ("1GiB", 1 << 30),
            ("2TiB", 2 << 40),
        ] {
            assert_eq!(bytes(text), Ok(size), "{text}");
        }
        for text in
            ["", "MiB", "64mb", "64MIB", "64M", "-1", "1.5GiB", "1 MiB", "8388608TiB", "18446744073709551616"]
        {
            assert!(bytes(text).unwrap_err().contains("64KiB"), "{text}");
        }
        for read in [in_file, in_variable] {
            assert_eq!(Size { min: 0 }.read(&read("4096")), Ok(4096));
            assert!(Size { min: 1024 }.read(&read("1023")).unwrap_err().contains("at least \"1KiB\""));
            Size { min: 0 }.read(&read("-1")).expect_err("negative");
        }
    }

    #[test]
    fn what_is_printed_reads_back() {
        for text in ["0s", "1ms", "1500ms", "59s", "60s", "90s", "1h", "36h"] {
            assert_eq!(duration_text(time(text).unwrap()), text);
        }
        for text in ["0", "1", "1023", "1KiB", "1025", "1536KiB", "1GiB", "1000000001"] {
            assert_eq!(size_text(bytes(text).unwrap()), text);
        }
    }

    #[test]
    fn shares_are_from_nought_to_one() {
        for read in [in_file, in_variable] {
            for (text, share) in [("0", 0.0), ("1", 1.0), ("0.0", 0.0), ("0.25", 0.25)] {
                assert_eq!(Share.read(&read(text)).map(f64::to_bits), Ok(f64::to_bits(share)), "{text}");
            }
            for text in ["1.5", "-0.1", "2", "-1", "\"0.5\""] {
                Share.read(&read(text)).expect_err(text);
            }
        }
        Share.read(&in_file("nan")).expect_err("no number");
    }

    #[test]
    fn what_may_hold_a_password_is_not_shown() {
        let value = Value::from("redis://:hush@h");
        for why in [
            expected("a word", &value),
            Listen.read(&value).unwrap_err(),
            CommandName.read(&Value::from("re dis://:hush@h")).unwrap_err(),
            SecretUrl.read(&Value::from("hush")).unwrap_err(),
        ] {
            assert!(!why.contains("hush"), "{why}");
        }
    }
}
