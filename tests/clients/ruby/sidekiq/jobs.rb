# frozen_string_literal: true

# The application: `sidekiq --require jobs.rb` runs its jobs, and main.rb enqueues them and looks on.

require "sidekiq"

# redis-rb says which calls its next version will do away with, each time.
Redis.silence_deprecations = true

login = ENV.key?("REDIS_USERNAME") ? "#{ENV.fetch("REDIS_USERNAME")}:#{ENV.fetch("REDIS_PASSWORD")}@" : ""
CONNECTION = { url: "redis://#{login}#{ENV.fetch("REDIS_HOST")}:#{ENV.fetch("REDIS_PORT")}/2", timeout: 20 }.freeze

Sidekiq.configure_client { |config| config.redis = CONNECTION }

Sidekiq.configure_server do |config|
  config.redis = CONNECTION
  # How often due jobs are looked for; minutes in production.
  config.options[:poll_interval_average] = 0.1
end

# What is done, for the look of the workload.
def done(what)
  Sidekiq.redis { |redis| redis.rpush("done", what) }
end

# Reads its settings over and over, as jobs do.
class Plain
  include Sidekiq::Worker

  def perform(name, more = {})
    settings = Array.new(20) { Sidekiq.redis { |redis| [redis.get("setting"), redis.hgetall("settings")] } }.uniq
    done("plain #{name} #{more} with #{settings}")
  end
end

# Goes first.
class Critical
  include Sidekiq::Worker

  sidekiq_options queue: "critical", retry: false, tags: %w[urgent]

  def perform(name)
    done("critical #{name}")
  end
end

# Fails until it is healed, and then is tried again in an hour, unless somebody asks for it.
class Fragile
  include Sidekiq::Worker

  sidekiq_options retry: 5, backtrace: false
  sidekiq_retry_in { 3600 }

  def perform(name)
    raise ArgumentError, "#{name} is not healed" unless Sidekiq.redis { |redis| redis.get("healed") }

    done("fragile #{name}")
  end
end

# Fails twice, and is tried again soon.
class Stubborn
  include Sidekiq::Worker

  sidekiq_options retry: 5
  sidekiq_retry_in { 1 }

  def perform(name)
    tries = Sidekiq.redis { |redis| redis.incr("tries:#{name}") }
    raise "#{name} fails" if tries < 3

    done("stubborn #{name} after #{tries}")
  end
end

# Fails, is not tried again, and lies among the dead.
class Hopeless
  include Sidekiq::Worker

  sidekiq_options retry: 0
  sidekiq_retries_exhausted { |job, error| done("given up #{job["args"]}: #{error.message}") }

  def perform(name)
    raise KeyError, "#{name} is hopeless"
  end
end

# Works until it is let go, on a blocking connection of its own.
class Long
  include Sidekiq::Worker

  sidekiq_options queue: "critical"

  def perform(name)
    Sidekiq.redis { |redis| redis.rpush("working", name) }
    redis = Redis.new(**CONNECTION)
    redis.blpop("let go", timeout: 60)
    redis.close
    done("long #{name}")
  end
end
