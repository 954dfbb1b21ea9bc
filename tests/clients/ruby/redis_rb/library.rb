# frozen_string_literal: true

# How the steps speak to the server and to the transcript. Nothing here stands between a step and the library: it calls
# it as applications do.

require "digest"
require "redis"

# A reply that takes longer is lost: the library raises, and the step fails.
TIMEOUT_S = 20
# Longer values stand in the transcript as their length and digest.
SHOWN_MAX = 300
# How what comes by itself is looked for.
POLLS_MAX = 1_000
POLL_INTERVAL_S = 0.01

# It says which calls its next version will do away with, and on which line.
Redis.silence_deprecations = true

# Where and as whom the workload connects: see tests/clients/ecosystem.rs.
class Place
  attr_reader :address

  def initialize
    @address = "#{ENV.fetch("REDIS_HOST")}:#{ENV.fetch("REDIS_PORT")}"
    name = ENV.fetch("REDIS_USERNAME", nil)
    @login = name ? { username: name, password: ENV.fetch("REDIS_PASSWORD") } : {}
  end

  def client(**options)
    Redis.new(url: "redis://#{@address}", timeout: TIMEOUT_S, **@login, **options)
  end
end

# The transcript.
class Transcript
  attr_writer :step

  def initialize(place)
    @place = place
    @step = ""
    $stdout.sync = true
  end

  def say(what, value)
    puts "#{@step}/#{what}: #{shown(value)}"
  end

  # What a call raises; the class is as much a part of the answer as the text.
  def failure(what)
    say(what, ["no error", yield])
  rescue Redis::BaseError, Errno::EPIPE => e
    say(what, e)
  end

  def shown(value)
    text = written(value)
    text.bytesize <= SHOWN_MAX ? text : "<#{text.bytesize} bytes, #{Digest::MD5.hexdigest(text)}>"
  end

  private

  def written(value)
    case value
    when Hash then "{#{value.map { |key, one| "#{written(key)} => #{written(one)}" }.join(", ")}}"
    when Array then "[#{value.map { |one| written(one) }.join(", ")}]"
    # Whether writing or reading is the first to meet a closed connection is chance.
    when Redis::ConnectionError then value.class.name
    when Exception then "#{value.class}: #{value.message.gsub(@place.address, "ADDRESS")}"
    when String then value.b.inspect
    else value.inspect
    end
  end
end

# Returns once something holds that comes by itself.
def eventually
  POLLS_MAX.times do
    return if yield

    sleep POLL_INTERVAL_S
  end
  raise "it never came true"
end

# Runs beside the step, once a client of the server is blocked: a pop that nobody waits for tells nothing.
def once_somebody_waits(client)
  Thread.new do
    Thread.current.report_on_exception = false
    eventually { client.info(:clients)["blocked_clients"].to_i.positive? }
    yield
  end
end
