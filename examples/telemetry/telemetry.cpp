// Devices as durable actors: "device/<serial number>". Nobody makes them; a reading does. Readings come over AMQP, as JSON,
// from whatever speaks it: see send_readings.py.
#include "telemetry.capnp.h"

#include <posthorn/amqp.hpp>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <iostream>
#include <string>

namespace {

using namespace std::chrono_literals;
using telemetry::AskSummary;
using telemetry::Device;
using telemetry::Reading;
using telemetry::Silence;
using telemetry::Summary;
using turn = posthorn::turn<Device>;

void on_reading(turn& t, Reading::Reader reading) {
  auto device = t.state();
  device.setHighest(device.getCount() == 0 ? reading.getCelsius()
                                           : std::max(device.getHighest(), reading.getCelsius()));
  device.setCount(device.getCount() + 1);
  device.setSum(device.getSum() + reading.getCelsius());
  device.setSilent(false);
  // Setting it again moves it, so that it comes only when the device falls silent.
  t.remind<Silence>("silence", 1h, [](Silence::Builder) {});
}

void on_ask(turn& t, AskSummary::Reader) {
  t.reply<Summary>([device = t.state()](Summary::Builder summary) mutable {
    summary.setCount(device.getCount());
    summary.setMean(device.getCount() == 0 ? 0 : device.getSum() / static_cast<double>(device.getCount()));
    summary.setHighest(device.getHighest());
    summary.setSilent(device.getSilent());
  });
}

void on_silence(turn& t, Silence::Reader) { t.state().setSilent(true); }

}  // namespace

int main(int argc, char** argv) {
  const std::string directory = argc > 1 ? argv[1] : "telemetry-data";
  const auto port = static_cast<std::uint16_t>(argc > 2 ? std::atoi(argv[2]) : 5672);

  sigset_t until;
  sigemptyset(&until);
  sigaddset(&until, SIGINT);
  sigaddset(&until, SIGTERM);
  pthread_sigmask(SIG_BLOCK, &until, nullptr);

  auto node = posthorn::node::start({.data_directory = directory});
  if (!node) {
    std::cerr << "telemetry: " << node.error().text << '\n';
    return EXIT_FAILURE;
  }
  const auto added = (*node)->add(posthorn::durable<Device>("device")
                                      .on<Reading>(on_reading)
                                      .on<AskSummary>(on_ask)
                                      .on<Silence>(on_silence)
                                      .idle_after(30s));
  if (!added) {
    std::cerr << "telemetry: " << added.error().text << '\n';
    return EXIT_FAILURE;
  }
  posthorn::amqp_settings door_settings;
  door_settings.host = "127.0.0.1";
  door_settings.port = port;
  auto door = posthorn::listen_for_amqp(**node, door_settings);
  if (!door) {
    std::cerr << "telemetry: " << door.error().text << '\n';
    return EXIT_FAILURE;
  }
  std::cout << "devices are waited for at amqp://guest:guest@127.0.0.1:" << (*door)->port() << std::endl;

  int signal = 0;
  sigwait(&until, &signal);
  (*door)->stop(1s);
  return EXIT_SUCCESS;
}
