use sigstorm::executor::Harness;
use sigstorm::schedule::Schedule;
fn main() {
    let args: Vec<String> = std::env::args().collect();
    let defects: Vec<_> = args[2..].iter().map(|n| sigstorm_runtime::Defect::from_name(n).unwrap()).collect();
    let mut h = Harness::new(0, &defects).unwrap();
    if let Ok(n) = args[1].parse::<u64>() {
        let t = std::time::Instant::now();
        let mut x = 88172645463325252u64;
        let mut total = sigstorm::outcome::Counts::default();
        for i in 0..n {
            let mut bytes = vec![0u8; 320];
            for c in bytes.chunks_exact_mut(8) {
                x ^= x << 13;
                x ^= x >> 7;
                x ^= x << 17;
                c.copy_from_slice(&x.to_le_bytes());
                let mut y = x.wrapping_mul(0x2545F4914F6CDD1D);
                y ^= y >> 29;
                c.copy_from_slice(&y.to_le_bytes());
                c[0] &= 7;
                if c[0] == 7 {
                    c[0] = 0
                };
                c[1] = (y >> 40) as u8 % if c[0] == 5 { 9 } else { 21 };
            }
            let s = Schedule::decode(&bytes);
            let r = h.run(&s, false);
            total.add(&r.counts);
            if let Some(f) = r.finding {
                println!("{i} {:#?}\n{}", f, s);
                std::process::exit(1)
            }
        }
        println!("{:?} {:?} per s {}", t.elapsed(), total, n as f64 / t.elapsed().as_secs_f64());
    } else {
        let s =
            Schedule::from_file_bytes(&std::fs::read(&args[1]).unwrap()).unwrap_or_else(|e| panic!("{e}"));
        let r = h.run(&s, true);
        for e in &r.events {
            println!(
                "{:3} {:4} g{} {:24} {:16} {:10} {} {}",
                e.step, e.actor, e.goroutine, e.what, e.pc, e.sp, e.lock, e.barriers
            );
        }
        println!("{:?}\n{:#?}", r.counts, r.finding);
    }
}
