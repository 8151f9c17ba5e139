//! Numbers, sizes and dates as people read them.

/// `5,512,448`.
pub(super) fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `5.51 M`, `12 K`: three digits that matter.
pub(super) fn count(number: u64) -> String {
    scaled(number as f64, 1e3, &["", " K", " M", " G", " T"])
}

/// `11.0 MiB`.
pub(super) fn bytes(number: u64) -> String {
    scaled(
        number as f64,
        1024.0,
        &[" B", " KiB", " MiB", " GiB", " TiB"],
    )
}

fn scaled(mut number: f64, base: f64, units: &[&str]) -> String {
    let mut unit = 0;
    // 999.5 would be written as 1000.
    while number >= base.min(999.5) && unit + 1 < units.len() {
        number /= base;
        unit += 1;
    }
    let decimals = match number {
        _ if unit == 0 => 0,
        ..10.0 => 2,
        ..100.0 => 1,
        _ => 0,
    };
    format!("{number:.decimals$}{}", units[unit])
}

/// `0.0123`, `412`, `1.2e-5`: four digits that matter at most; a dash for what is not a number.
pub(super) fn number(value: f64) -> String {
    let magnitude = value.abs();
    if !value.is_finite() {
        "–".to_owned()
    } else if magnitude != 0.0 && !(1e-3..1e6).contains(&magnitude) {
        format!("{value:.2e}")
    } else {
        let decimals = (3 - magnitude.max(1e-3).log10().floor() as i32).clamp(0, 6) as usize;
        let text = format!("{value:.decimals$}");
        if text.contains('.') {
            text.trim_end_matches('0').trim_end_matches('.').to_owned()
        } else {
            text
        }
    }
}

/// `12.3 ms`, `1.24 s`.
pub(super) fn milliseconds(ms: f64) -> String {
    match ms {
        ..0.995 => format!("{:.0} µs", ms * 1e3),
        ..9.95 => format!("{ms:.2} ms"),
        ..99.5 => format!("{ms:.1} ms"),
        ..999.5 => format!("{ms:.0} ms"),
        _ => format!("{:.2} s", ms / 1e3),
    }
}

/// `24.1%`.
pub(super) fn percent(share: f64) -> String {
    format!("{:.1}%", 100.0 * share)
}

/// `2026-03-01 14:05 UTC` from seconds since 1970.
pub(super) fn date(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    // Howard Hinnant's civil_from_days: years begin in March, so that the leap day is the last.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    format!(
        "{year}-{month:02}-{day:02} {:02}:{:02} UTC",
        rest / 3600,
        rest % 3600 / 60
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_for_people() {
        assert_eq!([thousands(999), thousands(5_512_448)], ["999", "5,512,448"]);
        assert_eq!(
            [count(12), count(999_600), count(5_512_448)],
            ["12", "1.00 M", "5.51 M"]
        );
        assert_eq!([bytes(12), bytes(11_534_336)], ["12 B", "11.0 MiB"]);
        assert_eq!(
            [number(0.1), number(0.012_345), number(1e-4), number(410.0)],
            ["0.1", "0.01235", "1.00e-4", "410"]
        );
        assert_eq!([number(f64::NAN), number(0.0)], ["–", "0"]);
        assert_eq!(
            [milliseconds(0.5), milliseconds(12.34), milliseconds(1240.0)],
            ["500 µs", "12.3 ms", "1.24 s"]
        );
        assert_eq!(percent(0.2412), "24.1%");
    }

    #[test]
    fn dates_are_right_around_leap_days() {
        assert_eq!(date(0), "1970-01-01 00:00 UTC");
        assert_eq!(date(951_782_400), "2000-02-29 00:00 UTC");
        assert_eq!(date(1_709_251_199), "2024-02-29 23:59 UTC");
        assert_eq!(date(4_107_542_400), "2100-03-01 00:00 UTC");
    }
}
