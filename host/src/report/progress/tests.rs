//! What a reader of the terminal or of a log file gets to see.

#![allow(clippy::unwrap_used)]

use super::*;

#[derive(Clone, Default)]
struct Captured(Arc<Mutex<Vec<u8>>>);

impl Captured {
    fn lines(&self) -> Vec<String> {
        String::from_utf8(self.0.lock().unwrap().clone())
            .unwrap()
            .lines()
            .map(str::to_owned)
            .collect()
    }
}

impl Write for Captured {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn plain_progress_shows_loss_step_time_and_time_left() {
    let captured = Captured::default();
    let progress = Progress::plain(captured.clone(), Duration::ZERO);
    let mut task = progress.train(100, 400);
    task.tick(101, 0.5, 1000.0);
    task.tick(102, 0.5, 1000.0);
    task.finish();
    assert_eq!(
        captured.lines(),
        [
            "train: 100 of 400 steps",
            "train: step 101/400  loss 0.5000  1.0 s/step  4m 59s left",
            "train: step 102/400  loss 0.5000  1.0 s/step  4m 58s left",
            "train: 102 steps, the last 2 in 0.0s, loss 0.5000",
        ]
    );
}

#[test]
fn plain_progress_is_silent_between_intervals() {
    let captured = Captured::default();
    let progress = Progress::plain(captured.clone(), Duration::from_secs(3600));
    let mut task = progress.count("memory bank", "image", 64);
    for _ in 0..64 {
        task.advance();
    }
    task.finish();
    assert_eq!(
        captured.lines(),
        [
            "memory bank: 0 of 64 images",
            "memory bank: 64 images in 0.0s"
        ]
    );
}

#[test]
fn log_events_arrive_as_whole_lines() {
    let captured = Captured::default();
    let progress = Progress::plain(captured.clone(), Duration::ZERO);
    let subscriber = tracing_subscriber::fmt()
        .with_writer(progress.clone())
        .with_ansi(false)
        .without_time()
        .finish();
    tracing::subscriber::with_default(subscriber, || tracing::warn!("2 images skipped"));
    progress.message("plain");
    let lines = captured.lines();
    assert_eq!(lines.len(), 2);
    assert!(
        lines[0].contains("WARN") && lines[0].ends_with("2 images skipped"),
        "{lines:?}"
    );
    assert_eq!(lines[1], "plain");
}

#[test]
fn the_shown_loss_recovers_after_a_step_that_was_not_finite() {
    let mut task = Progress::hidden().train(0, 3);
    task.tick(1, f64::NAN, 10.0);
    task.tick(2, 0.25, 10.0);
    assert_eq!(task.loss, Some(0.25));
}

#[test]
fn bars_show_the_numbers_and_are_cleared_when_a_task_is_dropped() {
    let multi = MultiProgress::with_draw_target(ProgressDrawTarget::hidden());
    let mut task = Progress(Arc::new(Output::Bars(multi))).train(0, 10);
    let bar = task.bar.clone().unwrap();
    task.tick(5, 0.5, 2000.0);
    task.note("saving");
    assert_eq!((bar.position(), bar.length()), (5, Some(10)));
    assert_eq!(bar.message(), "loss 0.5000  2.0 s/step  10s left  saving");
    assert!(!bar.is_finished());
    drop(task);
    assert!(bar.is_finished());
}

#[test]
fn numbers_are_short() {
    for (value, text) in [
        (0.021_34, "0.02134"),
        (12.345, "12.35"),
        (0.5, "0.5000"),
        (1.2e-6, "1.20e-6"),
        (0.0, "0.00000"),
    ] {
        assert_eq!(short(value), text);
    }
    for (seconds, text) in [
        (8.04, "8.0s"),
        (59.4, "59s"),
        (185.0, "3m 05s"),
        (9600.0, "2h 40m"),
    ] {
        assert_eq!(human_duration(Duration::from_secs_f64(seconds)), text);
    }
}
